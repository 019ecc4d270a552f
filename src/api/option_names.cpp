// The names of the values that options of operators take.
#include "formats/name_list.hpp"

#include <gqmm/moe.hpp>
#include <gqmm/types.hpp>

#include <array>
#include <cstddef>
#include <string_view>

namespace gqmm {
namespace {

using namespace detail;

constexpr std::array<std::string_view, 3> precision_names = {"default", "fast", "float32"};
constexpr std::array<std::string_view, 2> missing_names = {"error", "zero"};
constexpr std::array<std::string_view, 3> gate_up_order_names = {"gate_up", "up_gate", "interleaved"};

}  // namespace

std::string_view name_of(Precision precision) noexcept { return precision_names[static_cast<std::size_t>(precision)]; }

Precision precision_from_name(std::string_view name, std::string_view op) {
  return static_cast<Precision>(position_of(precision_names, name, op, "precision"));
}

std::string_view name_of(Missing missing) noexcept { return missing_names[static_cast<std::size_t>(missing)]; }

Missing missing_from_name(std::string_view name, std::string_view op, std::string_view argument) {
  return static_cast<Missing>(position_of(missing_names, name, op, argument));
}

std::string_view name_of(GateUpOrder order) noexcept { return gate_up_order_names[static_cast<std::size_t>(order)]; }

GateUpOrder gate_up_order_from_name(std::string_view name, std::string_view op) {
  return static_cast<GateUpOrder>(position_of(gate_up_order_names, name, op, "gate_up_order"));
}

}  // namespace gqmm
