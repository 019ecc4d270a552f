#include "dispatch.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"
#include "sealed_class.hpp"

#include <gqmm/dispatch.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gqmm::python {
namespace {

bool is_sequence(nb::handle value) { return nb::isinstance<nb::list>(value) || nb::isinstance<nb::tuple>(value); }

/// The ranks of one expert: an integer, or a sequence of them.
std::vector<int> parse_ranks(nb::handle value) {
  constexpr ArgumentName name = {"ExpertOwners", "owners"};
  std::vector<int> ranks;
  if (is_sequence(value)) {
    for (const nb::handle rank : nb::borrow<nb::iterable>(value)) {
      ranks.push_back(parse_int(name, rank));
    }
  } else {
    ranks.push_back(parse_int(name, value));
  }
  return ranks;
}

nb::tuple ranks_of(const ExpertOwners& self, std::int64_t expert) {
  nb::list ranks;
  for (const int rank : self.ranks_of(expert)) {
    ranks.append(rank);
  }
  return nb::tuple(ranks);
}

nb::list all_ranks(const ExpertOwners& self) {
  nb::list owners;
  for (std::int64_t expert = 0; expert < self.num_experts(); ++expert) {
    owners.append(ranks_of(self, expert));
  }
  return owners;
}

/// A NumPy array with these values. It is a copy, because a program may write to it, and plans must not change.
nb::object export_copy(const void* values, Shape shape, Dtype dtype) {
  array result = array::empty(std::move(shape), dtype);
  std::copy_n(static_cast<const std::byte*>(values), result.nbytes(), result.mutable_bytes());
  return export_array(nb::none(), std::move(result));
}
nb::object export_copy(const array& values) { return export_copy(values.bytes(), values.shape(), values.dtype()); }

ExpertOwners owners_by_load(nb::handle counts, nb::handle ranks, nb::handle extra_replicas) {
  const Operand operand = import_array({"ExpertOwners", "counts"}, counts);
  return ExpertOwners::by_load(operand.view, parse_int({"ExpertOwners", "ranks"}, ranks),
                               parse_int({"ExpertOwners", "extra_replicas"}, extra_replicas));
}

void bind_owners(nb::module_& m) {
  nb::class_<ExpertOwners> owners(
      m, "ExpertOwners", nb::is_final(),
      "The ranks that hold each expert of a layer. Objects are immutable. Functions that take owners also take what this class "
      "is made of.");
  owners
      .def(
          "__init__", [](ExpertOwners* self, nb::handle ranks) { new (self) ExpertOwners(parse_owners(ranks)); },
          nb::arg("owners").none(), nb::sig("def __init__(self, owners: object) -> None"),
          "owners: an integer array of shape (E,), the rank of each expert; or a sequence with, for each expert, its rank or a\n"
          "tuple of the ranks that hold a replica. Raises ValueError if an expert has no rank, or if a rank is negative or "
          "named\n"
          "twice for an expert.")
      .def_static(
          "contiguous",
          [](nb::handle num_experts, nb::handle ranks) {
            return ExpertOwners::contiguous(parse_int({"ExpertOwners", "num_experts"}, num_experts),
                                            parse_int({"ExpertOwners", "ranks"}, ranks));
          },
          nb::arg("num_experts").none(), nb::arg("ranks").none(),
          nb::sig("def contiguous(num_experts: int, ranks: int) -> ExpertOwners"),
          "Place neighbours together: expert e belongs to rank e * ranks // num_experts.")
      .def_static(
          "round_robin",
          [](nb::handle num_experts, nb::handle ranks) {
            return ExpertOwners::round_robin(parse_int({"ExpertOwners", "num_experts"}, num_experts),
                                             parse_int({"ExpertOwners", "ranks"}, ranks));
          },
          nb::arg("num_experts").none(), nb::arg("ranks").none(),
          nb::sig("def round_robin(num_experts: int, ranks: int) -> ExpertOwners"),
          "Place experts by turns: expert e belongs to rank e % ranks.")
      .def_static("by_load", &owners_by_load, nb::arg("counts").none(), nb::arg("ranks").none(),
                  nb::arg("extra_replicas").none() = 0,
                  nb::sig("def by_load(counts: object, ranks: int, extra_replicas: int = 0) -> ExpertOwners"),
                  "Place experts by measured load. counts: an integer array of shape (E,), how often each expert was chosen. The "
                  "experts with the most load for each\n"
                  "of their replicas get extra_replicas more, at most one on each rank. Ranks hold at most\n"
                  "ceil((len(counts) + extra_replicas) / ranks) experts. Raises ValueError for negative numbers.")
      .def_prop_ro("num_experts", &ExpertOwners::num_experts, "The number of experts.")
      .def("ranks_of", &ranks_of, nb::arg("expert"), nb::sig("def ranks_of(self, expert: int) -> tuple[int, ...]"),
           "Return the ranks that hold an expert. Raises ValueError if there is no such expert.")
      .def(
          "experts_of",
          [](const ExpertOwners& self, int rank) {
            const std::vector<std::int64_t> experts = self.experts_of(rank);
            return export_copy(experts.data(), {static_cast<std::int64_t>(experts.size())}, Dtype::int64);
          },
          nb::arg("rank"), nb::sig("def experts_of(self, rank: int) -> numpy.typing.NDArray[numpy.int64]"),
          "Return the experts that a rank holds, ascending. Weights of that rank have their matrices in this order.")
      .def("__repr__",
           [](const ExpertOwners& self) { return fmt::format("<gqmm.dispatch.ExpertOwners of {} experts>", self.num_experts()); })
      .def(
          "__reduce__",
          [](nb::handle self) {
            return nb::make_tuple(self.type(), nb::make_tuple(all_ranks(nb::cast<const ExpertOwners&>(self))));
          },
          nb::sig("def __reduce__(self) -> tuple[typing.Any, ...]"));
  define_copies(owners);
  seal(owners);
}

void bind_plan(nb::module_& m) {
  const auto numbers = [](const array& (DispatchPlan::*part)() const noexcept) {
    return [part](const DispatchPlan& self) { return export_copy((self.*part)()); };
  };
  nb::class_<DispatchPlan> plan(
      m, "DispatchPlan", nb::is_final(),
      "Where the rows of one rank's tokens go, and where the results return to. Objects are immutable. If several ranks hold an\n"
      "expert, slot j of token t takes number (t + j) % n of the n.");
  plan.def(
          "__init__",
          [](DispatchPlan* self, nb::handle topk_ids, nb::handle owners, nb::handle rank, nb::handle ranks,
             nb::handle num_experts) {
            const Operand ids = import_array({"DispatchPlan", "topk_ids"}, topk_ids);
            new (self) DispatchPlan(ids.view, parse_owners(owners), parse_int({"DispatchPlan", "rank"}, rank),
                                    parse_int({"DispatchPlan", "ranks"}, ranks),
                                    parse_int({"DispatchPlan", "num_experts"}, num_experts));
          },
          nb::arg("topk_ids").none(), nb::arg("owners").none(), nb::arg("rank").none(), nb::arg("ranks").none(),
          nb::arg("num_experts").none(),
          nb::sig("def __init__(self, topk_ids: object, owners: object, rank: int, ranks: int, num_experts: int) -> None"),
          "topk_ids: any integer type, shape (..., k), the experts of this rank's tokens among all experts. A slot with a\n"
          "negative id is nobody's; it stays zero. owners: an ExpertOwners, or what it is made of. rank and ranks: the number "
          "of\n"
          "this rank, and how many there are. Raises ValueError if ids, ranks or owners are out of range.")
      .def_prop_ro("rank", &DispatchPlan::rank, "The number of this rank.")
      .def_prop_ro("ranks", &DispatchPlan::ranks, "How many ranks there are.")
      .def_prop_ro("num_experts", &DispatchPlan::num_experts, "The number of experts on all ranks.")
      .def_prop_ro(
          "shape", [](const DispatchPlan& self) { return tuple_of(self.shape()); }, nb::sig("def shape(self) -> tuple[int, ...]"),
          "The shape of topk_ids.")
      .def_prop_ro("send_counts", numbers(&DispatchPlan::send_counts),
                   nb::sig("def send_counts(self) -> numpy.typing.NDArray[numpy.int64]"),
                   "How many rows each rank needs, shape (ranks,). That of this rank counts rows that need not be sent.")
      .def_prop_ro("recv_counts", numbers(&DispatchPlan::recv_counts),
                   nb::sig("def recv_counts(self) -> numpy.typing.NDArray[numpy.int64]"),
                   "How many results each rank returns, one for each slot that it computes, shape (ranks,).")
      .def_prop_ro("send_rows", numbers(&DispatchPlan::send_rows),
                   nb::sig("def send_rows(self) -> numpy.typing.NDArray[numpy.int64]"),
                   "The token of each row to send, sorted by rank and then by token.")
      .def_prop_ro("send_ids", numbers(&DispatchPlan::send_ids),
                   nb::sig("def send_ids(self) -> numpy.typing.NDArray[numpy.int32]"),
                   "The experts of each row to send, shape (rows, k). Slots that another rank computes have -1.")
      .def_prop_ro("slot_of", numbers(&DispatchPlan::slot_of), nb::sig("def slot_of(self) -> numpy.typing.NDArray[numpy.int64]"),
                   "The slot of each result, token * k + slot, sorted by rank and then by slot.")
      .def("__repr__", [](const DispatchPlan& self) {
        return fmt::format("<gqmm.dispatch.DispatchPlan of rank {} of {}, topk_ids {}>", self.rank(), self.ranks(),
                           to_string(self.shape()));
      });
  define_copies(plan);
  seal(plan);
}

const DispatchPlan& parse_plan(const char* op, nb::handle value) {
  DispatchPlan* plan = nullptr;
  if (!nb::try_cast(value, plan) || plan == nullptr) {
    throw nb::type_error(fmt::format("[{}] plan: expected gqmm.dispatch.DispatchPlan, got {}", op,
                                     nb::cast<std::string>(nb::str(value.type().attr("__name__"))))
                             .c_str());
  }
  return *plan;
}

nb::object call_pack_rows(nb::handle plan, nb::handle x, nb::handle stream) {
  constexpr const char* op = "pack_rows";
  const DispatchPlan of_call = parse_plan(op, plan);
  const Operand x_operand = import_array({op, "x"}, x);
  const Stream on = parse_stream(op, stream);
  return export_array(x, without_gil([&] { return pack_rows(of_call, x_operand.view, on); }));
}

nb::object call_local_ids(nb::handle ids, nb::handle owners, nb::handle rank) {
  constexpr const char* op = "local_ids";
  const Operand ids_operand = import_array({op, "ids"}, ids);
  const array local = local_ids(ids_operand.view, parse_owners(owners), parse_int({op, "rank"}, rank));
  return export_copy(local);
}

nb::object call_pack_results(nb::handle slots, nb::handle ids, nb::handle stream) {
  constexpr const char* op = "pack_results";
  const Operand slots_operand = import_array({op, "slots"}, slots);
  const Operand ids_operand = import_array({op, "ids"}, ids);
  const Stream on = parse_stream(op, stream);
  return export_array(slots, without_gil([&] { return pack_results(slots_operand.view, ids_operand.view, on); }));
}

nb::object call_return_counts(nb::handle ids, nb::handle row_counts) {
  constexpr const char* op = "return_counts";
  const Operand ids_operand = import_array({op, "ids"}, ids);
  const Operand counts_operand = import_array({op, "row_counts"}, row_counts);
  return export_copy(return_counts(ids_operand.view, counts_operand.view));
}

nb::object call_unpack_results(nb::handle plan, nb::handle received, nb::handle stream) {
  constexpr const char* op = "unpack";
  const DispatchPlan of_call = parse_plan(op, plan);
  const Operand operand = import_array({op, "received"}, received);
  const Stream on = parse_stream(op, stream);
  return export_array(received, without_gil([&] { return unpack(of_call, operand.view, on); }));
}

nb::object call_combine(nb::handle plan, nb::handle slots, nb::handle topk_weights, nb::handle stream) {
  constexpr const char* op = "combine";
  const DispatchPlan of_call = parse_plan(op, plan);
  const Operand slots_operand = import_array({op, "slots"}, slots);
  const Operand weights_operand = import_array({op, "topk_weights"}, topk_weights);
  const Stream on = parse_stream(op, stream);
  return export_array(slots, without_gil([&] { return combine(of_call, slots_operand.view, weights_operand.view, on); }));
}

}  // namespace

ExpertOwners parse_owners(nb::handle owners) {
  ExpertOwners* given = nullptr;
  if (nb::try_cast(owners, given) && given != nullptr) {
    return *given;
  }
  if (is_sequence(owners)) {
    std::vector<std::vector<int>> ranks;
    for (const nb::handle of_expert : nb::borrow<nb::iterable>(owners)) {
      ranks.push_back(parse_ranks(of_expert));
    }
    return ExpertOwners(ranks);
  }
  const Operand operand = import_array({"ExpertOwners", "owners"}, owners);
  return ExpertOwners(operand.view);
}

void bind_dispatch(nb::module_& m) {
  bind_owners(m);
  bind_plan(m);
  define(m, "pack_rows", &call_pack_rows, "def pack_rows(plan: DispatchPlan, x: object, stream: object, /) -> typing.Any");
  define(m, "local_ids", &call_local_ids, "def local_ids(ids: object, owners: object, rank: int, /) -> typing.Any");
  define(m, "pack_results", &call_pack_results, "def pack_results(slots: object, ids: object, stream: object, /) -> typing.Any");
  define(m, "return_counts", &call_return_counts, "def return_counts(ids: object, row_counts: object, /) -> typing.Any");
  define(m, "unpack_results", &call_unpack_results,
         "def unpack_results(plan: DispatchPlan, received: object, stream: object, /) -> typing.Any");
  define(m, "combine", &call_combine,
         "def combine(plan: DispatchPlan, slots: object, topk_weights: object, stream: object, /) -> typing.Any");
}

}  // namespace gqmm::python
