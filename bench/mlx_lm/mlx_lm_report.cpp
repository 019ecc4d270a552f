#include "mlx_lm/mlx_lm_report.hpp"

#include "report/report_parts.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <map>
#include <ostream>
#include <utility>
#include <vector>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

/// The aims of gqmm.mlx for the default layer: how many times as many tokens per second as stock MLX it shall reach.
const std::map<std::pair<std::string, std::string>, double> aims = {
    {{"prompt", "float32"}, 20}, {{"prompt", "bfloat16"}, 150}, {{"decode", "float32"}, 15}, {{"decode", "bfloat16"}, 100}};
const double tiny_aim = 3e-6;  // the seconds that a call may cost more than stock MLX's

Summary summary_of(const json& samples) { return summarize(samples.get<std::vector<double>>()); }

Summary summary_from(const json& figures) {
  return {figures.at("median"), figures.at("first_quartile"), figures.at("third_quartile"), figures.at("least"),
          figures.at("most")};
}

double median(const json& summary) { return summary.at("median"); }

std::string text(const json& value) { return value.get<std::string>(); }

/// Writes tokens per second with three digits, or with all digits of the whole number.
std::string rate(double value) { return value < 100 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value); }

json side(const json& samples, double tokens) {
  const Summary seconds = summary_of(samples);
  return {{"seconds", to_json(seconds)}, {"tokens_per_second", tokens / seconds.median}, {"repetitions", samples.size()}};
}

/// Returns the sum of the seconds of all parts.
double sum_of(const json& breakdown, const char* where) {
  double sum = 0;
  for (const json& part : breakdown.at("parts")) {
    sum += part.at(where).get<double>();
  }
  return sum;
}

tools::TextTable case_table(const MlxLmReport& report) {
  tools::TextTable table;
  table.header = {"job",
                  "x",
                  "T",
                  "stock",
                  "spread",
                  "gqmm.mlx",
                  "spread",
                  "stock tokens/s",
                  "gqmm.mlx tokens/s",
                  "times faster",
                  "spread",
                  "aim",
                  "stock runs",
                  "other programs",
                  "difference"};
  table.numeric = {false, false, true, true, true, true, true, true, true, true, true, true, true, true, true};
  for (const json& figures : report.figures.at("cases")) {
    const json& stock = figures.at("stock");
    const json& ours = figures.at("ours");
    const Summary stock_seconds = summary_from(stock.at("seconds"));
    const Summary our_seconds = summary_from(ours.at("seconds"));
    const Summary faster = summary_from(figures.at("times_faster"));
    const auto aim = aims.find({text(figures.at("job")), text(figures.at("dtype"))});
    const int runs = stock.at("repetitions");
    const auto spread_of_runs = [&](const Summary& summary) { return runs < 2 ? std::string("-") : spread(summary); };
    table.rows.push_back({text(figures.at("job")), text(figures.at("dtype")), fmt::format("{}", figures.at("tokens").get<int>()),
                          duration(stock_seconds.median), spread_of_runs(stock_seconds), duration(our_seconds.median),
                          spread(our_seconds), rate(stock.at("tokens_per_second")), rate(ours.at("tokens_per_second")),
                          fmt::format("{:.1f}", faster.median), spread_of_runs(faster),
                          report.has_aims && aim != aims.end() ? fmt::format("{:g}", aim->second) : "-", fmt::format("{}", runs),
                          fmt::format("{:.0f} %", 100 * figures.at("other_programs").get<double>()),
                          fmt::format("{:.0e}", figures.at("difference").get<double>())});
  }
  return table;
}

tools::TextTable part_table(const MlxLmReport& report) {
  tools::TextTable table = {
      {"job", "x", "part", "products", "around them", "of all"}, {false, false, false, true, true, true}, {}};
  for (const json& figures : report.figures.at("cases")) {
    const json& breakdown = figures.at("breakdown");
    const double products = sum_of(breakdown, "products");
    const double around = sum_of(breakdown, "around");
    const auto add = [&](const std::string& part, double in_products, double around_them) {
      table.rows.push_back({text(figures.at("job")), text(figures.at("dtype")), part,
                            in_products > 0 ? duration(in_products) : "-", duration(around_them),
                            fmt::format("{:.1f} %", 100 * (in_products + around_them) / (products + around))});
    };
    for (const json& part : breakdown.at("parts")) {
      add(text(part.at("part")), part.at("products"), part.at("around"));
    }
    add("all", products, around);
  }
  return table;
}

tools::TextTable tiny_table(const MlxLmReport& report) {
  tools::TextTable table = {{"function", "x", "calls per mx.eval", "stock", "gqmm.mlx", "gqmm.mlx - stock", "quartiles", "aim"},
                            {false, false, true, true, true, true, true, true},
                            {}};
  for (const json& figures : report.figures.at("tiny_calls")) {
    const Summary difference = summary_from(figures.at("difference"));
    table.rows.push_back(
        {text(figures.at("function")), text(figures.at("dtype")), fmt::format("{}", figures.at("calls_per_eval").get<int>()),
         duration(median(figures.at("stock"))), duration(median(figures.at("ours"))), duration(difference.median),
         fmt::format("{:.1f} to {:.1f}", 1e6 * difference.low, 1e6 * difference.high), fmt::format("{:g} us", 1e6 * tiny_aim)});
  }
  return table;
}

std::string layer_line(const MlxLmReport& report) {
  const auto number = [&](const char* name) { return report.settings.at(name).get<std::int64_t>(); };
  const json& versions = report.figures.at("versions");
  return fmt::format(
      "One layer through mlx-lm {}, MLX {}, gqmm.mlx {} (precision {}, weights {}), Python {}: hidden {}, {} experts of width "
      "{}, "
      "top {}, {} heads and {} of keys and values, {} wide; affine, 4 bits, groups of 64; vocabulary {}; random weights; {} "
      "threads",
      text(versions.at("mlx-lm")), text(versions.at("mlx")), text(versions.at("gqmm")), text(report.settings.at("precision")),
      report.settings.at("pack").get<bool>() ? "packed" : "in place", text(versions.at("python")), number("hidden"),
      number("experts"), number("width"), number("top"), number("heads"), number("kv_heads"), number("head_dim"),
      number("vocabulary"), report.machine.threads);
}

const char* const part_note =
    "This is a pass of its own with gqmm.mlx. MLX must finish its work whenever a part or a product begins or ends. "
    "Products are all that gqmm computes; around them is the work of MLX and Python.";

std::vector<std::string> notes(const MlxLmReport& report) {
  std::vector<std::string> lines;
  for (const json& figures : report.figures.at("cases")) {
    const std::string name = fmt::format("{}, {}", text(figures.at("job")), text(figures.at("dtype")));
    const json& breakdown = figures.at("breakdown");
    const double parts = sum_of(breakdown, "products") + sum_of(breakdown, "around");
    lines.push_back(fmt::format("{}: all parts take {}, a call that is left alone {}; {} products were gqmm's, {} left to MLX",
                                name, duration(parts), duration(median(breakdown.at("alone"))),
                                figures.at("calls").at("ours").get<std::int64_t>(),
                                figures.at("calls").at("stock").get<std::int64_t>()));
    if (figures.contains("routing")) {
      const json& routing = figures.at("routing");
      const auto experts = report.settings.at("experts").get<std::int64_t>();
      lines.push_back(fmt::format(
          "{}: {} steps hit {} of {} experts, whose weights are {:.0f} MB; a step shares {:.2f} of its {} experts with the one "
          "before it",
          name, routing.at("steps").get<int>(), routing.at("experts_hit").get<int>(), experts,
          figures.at("expert_bytes").get<double>() / 1e6, routing.at("shared_with_step_before").get<double>(),
          report.settings.at("top").get<std::int64_t>()));
    }
  }
  return lines;
}

void write_table(std::ostream& out, const MlxLmReport& report) {
  out << machine_line(report.machine) << '\n' << layer_line(report) << "\n\n";
  tools::print_text(out, case_table(report));
  out << "\nWhere the time goes. " << part_note << '\n';
  tools::print_text(out, part_table(report));
  out << "\nA call on tiny arrays: one row for one of 8 experts, N = K = 64, through Python and mx.eval\n";
  tools::print_text(out, tiny_table(report));
  out << '\n';
  for (const std::string& line : notes(report)) {
    out << line << '\n';
  }
}

void write_markdown(std::ostream& out, const MlxLmReport& report) {
  out << "# A layer through mlx-lm, " << report.date << "\n\n"
      << machine_line(report.machine) << ".\n\n"
      << layer_line(report) << ".\n\nMade by `" << report.command << "`. docs/dev/benchmarking.md says how.\n\n";
  tools::print_markdown(out, case_table(report));
  out << "\n## Where the time goes\n\n" << part_note << "\n\n";
  tools::print_markdown(out, part_table(report));
  out << "\n## A call on tiny arrays\n\nOne row for one of 8 experts, N = K = 64, through Python and `mx.eval`.\n\n";
  tools::print_markdown(out, tiny_table(report));
  out << '\n';
  for (const std::string& line : notes(report)) {
    out << "- " << line << '\n';
  }
}

void write_json(std::ostream& out, const MlxLmReport& report) {
  json document = {{"gqmm_bench_mlx_lm", 1},
                   {"command", report.command},
                   {"date", report.date},
                   {"machine", to_json(report.machine)},
                   {"settings", report.settings}};
  document.update(report.figures);
  out << document.dump(1) << '\n';
}

}  // namespace

json summarized(const json& figures) {
  json result = figures;
  for (json& each : result.at("cases")) {
    const double tokens = each.at("tokens");
    each["stock"] = side(each.at("stock"), tokens);
    each["ours"] = side(each.at("ours"), tokens);
    each["times_faster"] = to_json(summary_of(each.at("times_faster")));
    json& breakdown = each.at("breakdown");
    breakdown["alone"] = to_json(summary_of(breakdown.at("alone")));
  }
  for (json& each : result.at("tiny_calls")) {
    for (const char* samples : {"stock", "ours", "difference"}) {
      each[samples] = to_json(summary_of(each.at(samples)));
    }
  }
  return result;
}

void write(std::ostream& out, const MlxLmReport& report, const std::string& format) {
  if (format == "json") {
    write_json(out, report);
  } else if (format == "markdown") {
    write_markdown(out, report);
  } else {
    write_table(out, report);
  }
}

}  // namespace gqmm::bench
