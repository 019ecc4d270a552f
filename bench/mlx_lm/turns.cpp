#include "mlx_lm/turns.hpp"

#include "probes/probes.hpp"
#include "report/report_parts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <thread>
#include <utility>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

constexpr double most_difference = 0.1;  // of a limit before and after a steady turn

double mean_of(const Turn& turn, double MachineRates::* rate) { return mean({turn.before.*rate, turn.after.*rate}); }

/// The fractions of the limits that a call reaches: of the machine's arithmetic, where products need one dot product per weight
/// and attention two multiply-adds per element, and of DRAM.
struct Fractions {
  double arithmetic = 0;
  double memory = 0;
  bool memory_binds = false;
};

Fractions fractions_of(const ModelSide& side, const Turn& turn, const json& work) {
  const double int8 = work.at("products").get<double>() / mean_of(turn, &MachineRates::int8);
  const double fma = work.at("attention").get<double>() / mean_of(turn, &MachineRates::fma);
  const double bytes = work.at("weight_bytes").get<double>() + work.at("cache_bytes").get<double>();
  const double dram = bytes / mean_of(turn, &MachineRates::dram);
  const bool memory_binds = dram > std::max(1, side.slices()) * int8 + fma;
  return {(int8 + fma) / turn.seconds, dram / turn.seconds, memory_binds};
}

bool steady(const Turn& turn, bool memory_binds) {
  double MachineRates::* const rate = memory_binds ? &MachineRates::dram : &MachineRates::int8;
  return std::fabs(turn.after.*rate - turn.before.*rate) <= most_difference * mean_of(turn, rate);
}

class ModelBenchmark {
 public:
  ModelBenchmark(const ModelPlan& plan, const ModelProgress& progress)
      : plan_(plan),
        progress_(progress),
        processes_(plan.python, plan.peers, plan.threads),
        probes_(plan.threads, {}, plan.pool_bytes, Pages::standard) {}

  json run() {
    json figures = {{"versions", processes_.versions()}, {"limits", limits_of_models(probes_)}, {"models", json::array()}};
    for (; model_ < plan_.shapes.size(); ++model_) {
      figures["models"].push_back(measure(plan_.shapes[model_]));
    }
    figures["tiny_calls"] = tiny_calls();
    return figures;
  }

 private:
  /// Shows how many of the model's steps are done: its cases, and one more for the rest.
  void show(double steps, const ModelShape& shape, const std::string& doing) const {
    const double of_model = steps / static_cast<double>(plan_.cases.size() + 1);
    progress_((static_cast<double>(model_) + of_model) / static_cast<double>(plan_.shapes.size()),
              fmt::format("{}: {}", shape.name, doing));
  }

  MachineRates rates() {
    return {probes_.measure(Limit::int8_dot), probes_.measure(Limit::float32_fma), probes_.measure(Limit::dram_read)};
  }

  json measure(const ModelShape& shape) {
    show(0, shape, "making weights");
    skipped_.clear();
    json figures = {{"shape", to_json(shape)}};
    figures["llama.cpp"] = processes_.set_up(shape, plan_.dtypes);
    figures["cases"] = json::array();
    double step = 0;
    for (const ModelCase& settings : plan_.cases) {
      figures["cases"].push_back(measure(shape, settings, step++));
    }
    show(step, shape, "where the time goes");
    figures["differences"] = json::array();
    for (const ModelSide& side : plan_.sides) {
      if (side.who == Who::gqmm) {
        figures["differences"].push_back({{"side", side.name()}, {"difference", processes_.about("difference", side)}});
      }
    }
    figures["breakdowns"] = json::array();
    for (const ModelCase& settings : plan_.broken_down) {
      processes_.set_up(settings, false);
      add_breakdowns(settings, figures);
    }
    return figures;
  }

  void add_breakdowns(const ModelCase& settings, json& figures) {
    bool has_routing = false;
    for (const ModelSide& side : plan_.sides) {
      const bool wanted = side.who == Who::gqmm || (side.who == Who::stock && plan_.break_down_stock);
      if (wanted && !skipped_.contains({settings.name(), side.name()})) {
        json breakdown = {{"case", settings.name()}, {"side", side.name()}};
        breakdown.update(processes_.about("breakdown", side));
        for (const char* samples : {"alone", "ours_alone"}) {
          breakdown[samples] = to_json(summarize(breakdown.at(samples).get<std::vector<double>>()));
        }
        figures["breakdowns"].push_back(breakdown);
        if (settings.job == "decode" && !std::exchange(has_routing, true)) {
          figures["routing"] = processes_.about("routing", side);
        }
      }
    }
  }

  json measure(const ModelShape& shape, const ModelCase& settings, double step) {
    show(step, shape, settings.name());
    const json work = processes_.set_up(settings, true);
    std::map<std::string, std::vector<Turn>> turns;
    std::map<std::string, std::string> skipped;
    double stock_seconds = 0;
    for (int round = 0; round < plan_.repetitions; ++round) {
      for (const ModelSide& side : plan_.sides) {
        std::vector<Turn>& earlier = turns[side.name()];
        const bool enough = side.who == Who::stock && !earlier.empty() && stock_seconds > plan_.seconds;
        if (enough || skipped.contains(side.name())) {
          continue;
        }
        show(step + static_cast<double>(round) / plan_.repetitions, shape, settings.name() + ", " + side.name());
        const auto start = std::chrono::steady_clock::now();
        take_turn(side, round, earlier, skipped);
        if (side.who == Who::stock) {
          stock_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        }
      }
    }
    for (const auto& [side, why] : skipped) {
      skipped_.insert({settings.name(), side});
    }
    json figures = {
        {"job", settings.job}, {"tokens", settings.tokens}, {"requests", settings.requests}, {"name", settings.name()}};
    figures["work"] = work;
    figures["sides"] = json::array();
    for (const ModelSide& side : plan_.sides) {
      figures["sides"].push_back(figures_of_side(settings, side, work, turns, skipped));
    }
    return figures;
  }

  void take_turn(const ModelSide& side, int round, std::vector<Turn>& turns, std::map<std::string, std::string>& skipped) {
    // Threads of the turn before spin for some milliseconds. They would take their share of the probes.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    Turn turn;
    turn.round = round;
    turn.before = rates();
    const json answer = processes_.turn(side, plan_.seconds);
    if (answer.contains("skipped")) {
      skipped[side.name()] = answer.at("skipped").get<std::string>();
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    turn.after = rates();
    turn.seconds = answer.at("seconds");
    if (answer.contains("other_programs")) {
      turn.other_programs = answer.at("other_programs").get<double>();
    }
    turns.push_back(turn);
  }

  json figures_of_side(const ModelCase& settings, const ModelSide& side, const json& work,
                       const std::map<std::string, std::vector<Turn>>& turns,
                       const std::map<std::string, std::string>& skipped) const {
    if (skipped.contains(side.name())) {
      return {{"side", side.name()}, {"skipped", skipped.at(side.name())}};
    }
    const std::vector<Turn>& own = turns.at(side.name());
    const json& work_of_side = work.at(dtype_of_work(side));
    json figures = figures_of(side, own, work_of_side, settings.tokens_of_call());
    const auto compared = [&](const ModelSide& other) {
      const auto found = turns.find(other.name());
      if (found == turns.end()) {
        return json();
      }
      const json steady = times_faster(counted_turns(side, own, work_of_side),
                                       counted_turns(other, found->second, work.at(dtype_of_work(other))));
      return steady.is_null() ? times_faster(own, found->second) : steady;
    };
    figures["times_llama"] = compared({Who::llama, "", "default", false});
    figures["times_stock"] = compared({Who::stock, side.dtype, "default", false});
    return figures;
  }

  /// llama.cpp's weights have as many bits as 4-bit ones with scales of a half type, and its cache is of a half type.
  std::string dtype_of_work(const ModelSide& side) const {
    if (side.who != Who::llama) {
      return side.dtype;
    }
    const auto half =
        std::find_if(plan_.dtypes.begin(), plan_.dtypes.end(), [](const std::string& each) { return each != "float32"; });
    return half == plan_.dtypes.end() ? plan_.dtypes.front() : *half;
  }

  json tiny_calls() {
    json all = json::array();
    for (const ModelSide& side : plan_.sides) {
      if (plan_.tiny_turns > 0 && side.who == Who::gqmm) {
        for (json call : processes_.about("tiny_calls", side, {{"turns", plan_.tiny_turns}})) {
          for (const char* samples : {"stock", "ours", "difference"}) {
            call[samples] = to_json(summarize(call.at(samples).get<std::vector<double>>()));
          }
          all.push_back(call);
        }
      }
    }
    return all;
  }

  const ModelPlan& plan_;
  const ModelProgress& progress_;
  SideProcesses processes_;
  Probes probes_;
  std::size_t model_ = 0;
  std::set<std::pair<std::string, std::string>> skipped_;  // cases of the model, and sides that were not measured in them
};

}  // namespace

std::vector<Turn> counted_turns(const ModelSide& side, const std::vector<Turn>& turns, const json& work) {
  std::vector<Turn> counted;
  for (const Turn& turn : turns) {
    if (steady(turn, fractions_of(side, turn, work).memory_binds)) {
      counted.push_back(turn);
    }
  }
  return counted.empty() ? turns : counted;
}

json figures_of(const ModelSide& side, const std::vector<Turn>& turns, const json& work, double tokens) {
  const std::vector<Turn> counted = counted_turns(side, turns, work);
  std::vector<double> seconds;
  std::vector<double> arithmetic;
  std::vector<double> memory;
  std::size_t bound_by_memory = 0;
  std::size_t unsteady = 0;
  for (const Turn& turn : counted) {
    const Fractions fractions = fractions_of(side, turn, work);
    seconds.push_back(turn.seconds);
    arithmetic.push_back(fractions.arithmetic);
    memory.push_back(fractions.memory);
    bound_by_memory += fractions.memory_binds ? 1 : 0;
  }
  std::optional<double> other_programs;
  for (const Turn& turn : turns) {
    unsteady += steady(turn, fractions_of(side, turn, work).memory_binds) ? 0 : 1;
    other_programs = std::max(other_programs, turn.other_programs);  // nothing is less than any number
  }
  const Summary summary = summarize(seconds);
  return {{"side", side.name()},
          {"seconds", to_json(summary)},
          {"tokens_per_second", tokens / summary.median},
          {"turns", turns.size()},
          {"unsteady", unsteady},
          {"of_arithmetic", to_json(summarize(arithmetic))},
          {"of_dram", to_json(summarize(memory))},
          {"bound_by", 2 * bound_by_memory > counted.size() ? "DRAM" : "arithmetic"},
          {"other_programs", other_programs ? json(*other_programs) : json()}};
}

json times_faster(const std::vector<Turn>& turns, const std::vector<Turn>& others) {
  std::vector<double> ratios;
  for (const Turn& turn : turns) {
    for (const Turn& other : others) {
      if (turn.round == other.round) {
        ratios.push_back(other.seconds / turn.seconds);
      }
    }
  }
  return ratios.empty() ? json() : to_json(summarize(ratios));
}

json measure_models(const ModelPlan& plan, const ModelProgress& progress) { return ModelBenchmark(plan, progress).run(); }

}  // namespace gqmm::bench
