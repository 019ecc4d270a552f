#include "cases/routing.hpp"

#include "carried_files.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>

namespace gqmm::bench {
namespace {

/// Returns the fractions of the choices that go to the most popular experts: L(i / E) for i = 0 … E, the mean over layers.
std::vector<double> lorenz_curve(const std::vector<std::vector<double>>& counts) {
  const std::size_t experts = counts.front().size();
  std::vector<double> curve(experts + 1);
  for (std::vector<double> layer : counts) {
    std::sort(layer.begin(), layer.end(), std::greater<>());
    const double all = std::accumulate(layer.begin(), layer.end(), 0.0) * static_cast<double>(counts.size());
    double sum = 0;
    for (std::size_t i = 0; i < experts; ++i) {
      sum += layer[i];
      curve[i + 1] += sum / all;
    }
  }
  return curve;
}

/// Returns the curve's value at q in [0, 1], by linear interpolation between its points.
double at(const std::vector<double>& curve, double q) {
  const double position = q * static_cast<double>(curve.size() - 1);
  const std::size_t left = std::min(static_cast<std::size_t>(position), curve.size() - 2);
  return curve[left] + (position - static_cast<double>(left)) * (curve[left + 1] - curve[left]);
}

}  // namespace

std::vector<std::vector<double>> parse_choice_counts(std::string_view text) {
  std::vector<std::vector<double>> counts;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.front() == '#') {
      continue;
    }
    std::istringstream words(line);
    std::vector<double>& layer = counts.emplace_back();
    for (double count = 0; words >> count;) {
      layer.push_back(count);
    }
    const bool numbers = words.eof() && std::all_of(layer.begin(), layer.end(), [](double count) { return count >= 0; });
    if (!numbers || layer.size() != counts.front().size() || std::accumulate(layer.begin(), layer.end(), 0.0) <= 0) {
      throw std::runtime_error("[bench] the table of choices wants a line of counts for each layer, as many in each: " + line);
    }
  }
  if (counts.empty()) {
    throw std::runtime_error("[bench] the table of choices is empty");
  }
  return counts;
}

std::vector<double> popularity(const std::vector<std::vector<double>>& counts, std::int64_t experts, std::int64_t top) {
  const std::vector<double> curve = lorenz_curve(counts);
  const auto count = static_cast<double>(experts);
  std::vector<double> shares;
  for (std::int64_t i = 0; i < experts; ++i) {
    const auto position = static_cast<double>(i);
    shares.push_back(static_cast<double>(top) * (at(curve, (position + 1) / count) - at(curve, position / count)));
  }
  // Every token chooses the first `full` experts. The others share the rest. Scaling them up may fill another expert.
  std::size_t full = 0;
  for (;;) {
    const auto first = shares.begin() + static_cast<std::ptrdiff_t>(full);
    const double left = static_cast<double>(top) - static_cast<double>(full);
    const double sum = std::accumulate(first, shares.end(), 0.0);
    const auto scaled = [&](double share) {
      return sum > 0 ? share * left / sum : left / static_cast<double>(shares.end() - first);
    };
    if (first == shares.end() || scaled(*first) <= 1) {
      std::transform(first, shares.end(), first, scaled);
      return shares;
    }
    shares[full++] = 1;
  }
}

std::vector<double> learned_popularity(std::int64_t experts, std::int64_t top) {
  return popularity(parse_choice_counts(choice_counts_text), experts, top);
}

}  // namespace gqmm::bench
