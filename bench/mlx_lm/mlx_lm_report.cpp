#include "mlx_lm/mlx_lm_report.hpp"

#include "mlx_lm/aims.hpp"
#include "mlx_lm/model_shape.hpp"
#include "report/report_parts.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <ostream>
#include <vector>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

constexpr double least_share = 0.005;  // of a call's time, for which an operation has a row of its own

Summary summary_from(const json& figures) {
  return {figures.at("median"), figures.at("first_quartile"), figures.at("third_quartile"), figures.at("least"),
          figures.at("most")};
}

double median(const json& summary) { return summary.at("median"); }

std::string text(const json& value) { return value.get<std::string>(); }

/// Writes tokens per second with three digits, or with all digits of the whole number.
std::string rate(double value) { return value < 100 ? fmt::format("{:.3g}", value) : fmt::format("{:.0f}", value); }

std::string times(const json& summary) { return summary.is_null() ? "-" : fmt::format("{:.2f}", median(summary)); }

std::string aim_text(const json& shape, const json& figures, const json& side) {
  const bool has_linear_layers = shape.at("linear").at("attention_every").get<std::int64_t>() > 0;
  const auto aim = aim_of(shape.at("layers"), has_linear_layers, text(figures.at("name")), text(side.at("side")));
  if (!aim) {
    return "-";
  }
  if (!aim->times) {
    return fmt::format("{:g} of DRAM", aim->of_dram.value());
  }
  return fmt::format("{:g} × {}", *aim->times, aim->other == Who::stock ? "MLX" : "llama.cpp") +
         (aim->of_dram ? fmt::format(", or {:g} of DRAM if that is less", *aim->of_dram) : "");
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

tools::TextTable case_table(const json& model) {
  tools::TextTable table = {{"case", "program", "time", "spread", "tokens/s", "times MLX", "times llama.cpp", "aim",
                             "of arithmetic", "of DRAM", "bound by", "turns", "unsteady", "other programs"},
                            {false, false, true, true, true, true, true, true, true, true, false, true, true, true},
                            {}};
  for (const json& figures : model.at("cases")) {
    for (const json& side : figures.at("sides")) {
      tools::Row row = {text(figures.at("name")), text(side.at("side"))};
      if (side.contains("skipped")) {
        row.push_back(text(side.at("skipped")));
        row.resize(table.header.size(), "-");
      } else {
        const Summary seconds = summary_from(side.at("seconds"));
        const int turns = side.at("turns");
        const int unsteady = side.at("unsteady");
        const bool is_single = turns == 1 || turns - unsteady == 1;  // a single turn counts, which has no spread
        for (std::string cell :
             {duration(seconds.median), is_single ? "-" : spread(seconds), rate(side.at("tokens_per_second")),
              times(side.at("times_stock")), times(side.at("times_llama")), aim_text(model.at("shape"), figures, side),
              fmt::format("{:.3f}", median(side.at("of_arithmetic"))), fmt::format("{:.3f}", median(side.at("of_dram"))),
              text(side.at("bound_by")), fmt::format("{}", turns), fmt::format("{}", unsteady),
              side.at("other_programs").is_null() ? "-"
                                                  : fmt::format("{:.0f} %", 100 * side.at("other_programs").get<double>())}) {
          row.push_back(std::move(cell));
        }
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

/// The part of a call without a profile that is not in gqmm's functions.
double left_share(const json& breakdown) { return 1 - median(breakdown.at("ours_alone")) / median(breakdown.at("alone")); }

tools::TextTable operation_table(const json& model) {
  tools::TextTable table = {{"case", "program", "operation", "calls", "in gqmm", "left to MLX", "of all"},
                            {false, false, false, true, true, true, true},
                            {}};
  for (const json& breakdown : model.at("breakdowns")) {
    const double alone = median(breakdown.at("alone"));
    double rest_ours = 0;
    double rest_left = 0;
    double rest_calls = 0;
    double left = 0;
    const auto add = [&](const std::string& name, const std::string& calls, double ours, double others) {
      table.rows.push_back({text(breakdown.at("case")), text(breakdown.at("side")), name, calls, ours > 0 ? duration(ours) : "-",
                            others > 0 ? duration(others) : "-", percent((ours + others) / alone)});
    };
    for (const json& each : breakdown.at("operations")) {
      const double ours = each.at("ours");
      const double others = each.at("others");
      left += others;
      if (ours + others >= least_share * alone) {
        add(text(each.at("operation")), fmt::format("{:g}", each.at("calls").get<double>()), ours, others);
      } else {
        rest_ours += ours;
        rest_left += others;
        rest_calls += each.at("calls").get<double>();
      }
    }
    add("others, each below 0.5 %", fmt::format("{:g}", rest_calls), rest_ours, rest_left);
    // Operations may have taken longer in their own pass than in the call. Then this part is unknown.
    const double rest = left_share(breakdown) * alone - left;
    if (rest > 0) {
      add("Python, graphs and waiting", "-", 0, rest);
    }
    add("all that is left to MLX and Python", "-", 0, left_share(breakdown) * alone);
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

std::string program_line(const MlxLmReport& report) {
  const json& versions = report.figures.at("versions");
  return fmt::format("mlx-lm {}, MLX {}, gqmm.mlx {} (weights {}), Python {}; random weights; {} threads",
                     text(versions.at("mlx-lm")), text(versions.at("mlx")), text(versions.at("gqmm")),
                     report.settings.at("pack").get<bool>() ? "packed" : "in place", text(versions.at("python")),
                     report.machine.threads);
}

std::string llama_line(const json& model) {
  const json& llama = model.at("llama.cpp");
  if (llama.contains("skipped")) {
    return fmt::format("llama.cpp was not measured: {}", text(llama.at("skipped")));
  }
  return fmt::format("llama.cpp of llama-cpp-python {}, weights in {}, flash attention", text(llama.at("version")),
                     text(llama.at("formats")));
}

std::string limits_line(const MlxLmReport& report) {
  std::string line = "Limits: ";
  for (const auto& [name, how] : report.figures.at("limits").items()) {
    line += fmt::format("{}{} ({})", line.ends_with(' ') ? "" : ", ", name, text(how));
  }
  return line;
}

const char* const operation_note =
    "Operations are measured in a pass of their own, in which MLX finishes each one before the next begins; what such a border "
    "costs is taken off. Shares are of a call that is left alone. What is left to MLX and Python is that call's time without the "
    "time in gqmm's functions. Where operations alone take longer than the whole call, only their ratios count";

std::vector<std::string> notes(const json& model) {
  std::vector<std::string> lines;
  for (const json& each : model.at("differences")) {
    lines.push_back(fmt::format("{}: the logits of a token differ from stock MLX's by {:.0e}", text(each.at("side")),
                                each.at("difference").get<double>()));
  }
  for (const json& breakdown : model.at("breakdowns")) {
    const json& counts = breakdown.at("counts");
    lines.push_back(fmt::format(
        "{}, {}: a call takes {}, of which {} are left to MLX and Python; while this was measured, {} calls of functions were "
        "gqmm's, and {} were left to MLX",
        text(breakdown.at("case")), text(breakdown.at("side")), duration(median(breakdown.at("alone"))),
        percent(left_share(breakdown)), counts.at("ours").get<std::int64_t>(), counts.at("stock").get<std::int64_t>()));
  }
  if (model.contains("routing") && model.at("routing").at("steps").get<int>() > 0) {
    const json& routing = model.at("routing");
    const json& shape = model.at("shape");
    lines.push_back(
        fmt::format("{} decoding steps hit {} of a layer's {} experts; a step shares {:.2f} of its {} experts with the "
                    "one before it",
                    routing.at("steps").get<int>(), routing.at("experts_hit").get<int>(), shape.at("experts").get<std::int64_t>(),
                    routing.at("shared_with_step_before").get<double>(), shape.at("top").get<std::int64_t>()));
  }
  return lines;
}

/// Writes the report with these functions for a heading, a paragraph, a table and a list of notes.
template <class Heading, class Paragraph, class Table, class Notes>
void write_parts(const MlxLmReport& report, Heading heading, Paragraph paragraph, Table table, Notes list) {
  paragraph(program_line(report));
  paragraph(limits_line(report));
  for (const json& model : report.figures.at("models")) {
    heading(text(model.at("shape").at("name")));
    paragraph(description_of(model.at("shape")));
    paragraph(llama_line(model));
    table(case_table(model));
    if (!model.at("breakdowns").empty()) {
      paragraph("Where the time goes. " + std::string(operation_note));
      table(operation_table(model));
    }
    list(notes(model));
  }
  if (!report.figures.at("tiny_calls").empty()) {
    heading("A call on tiny arrays");
    paragraph("One row for one of 8 experts, N = K = 64, through Python and mx.eval");
    table(tiny_table(report));
  }
}

void write_table(std::ostream& out, const MlxLmReport& report) {
  out << machine_line(report.machine) << '\n';
  write_parts(
      report, [&](const std::string& line) { out << '\n'
                                                 << line << '\n'; },
      [&](const std::string& line) { out << line << '\n'; },
      [&](const tools::TextTable& table) {
        out << '\n';
        tools::print_text(out, table);
        out << '\n';
      },
      [&](const std::vector<std::string>& lines) {
        for (const std::string& line : lines) {
          out << line << '\n';
        }
      });
}

void write_markdown(std::ostream& out, const MlxLmReport& report) {
  out << "# Models through mlx-lm, " << report.date << "\n\n"
      << machine_line(report.machine) << ".\n\nMade by `" << report.command << "`. docs/dev/benchmarking.md says how.\n";
  write_parts(
      report, [&](const std::string& line) { out << "\n## " << line << '\n'; },
      [&](const std::string& line) { out << '\n'
                                         << line << ".\n"; },
      [&](const tools::TextTable& table) {
        out << '\n';
        tools::print_markdown(out, table);
      },
      [&](const std::vector<std::string>& lines) {
        out << '\n';
        for (const std::string& line : lines) {
          out << "- " << line << '\n';
        }
      });
}

}  // namespace

void write(std::ostream& out, const MlxLmReport& report, const std::string& format) {
  if (format == "json") {
    write_json(out, report, "gqmm_bench_mlx_lm", 2);
  } else if (format == "markdown") {
    write_markdown(out, report);
  } else {
    write_table(out, report);
  }
}

}  // namespace gqmm::bench
