#include "scale/scale_report.hpp"

#include "report/report_parts.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <ostream>

namespace gqmm::bench {

using json = nlohmann::ordered_json;

namespace {

const char* const explanation =
    "A call ends when the last rank has its result. Time in exchanges is the mean over ranks, and includes waiting for "
    "ranks that compute. Plain moe_ffn is one process without plan and messages; speed-up is over 1 rank";

std::string text(const json& value) { return value.get<std::string>(); }

double median(const json& summary) { return summary.at("median"); }

Summary summary_from(const json& figures) {
  return {figures.at("median"), figures.at("first_quartile"), figures.at("third_quartile"), figures.at("least"),
          figures.at("most")};
}

/// The cells that plain moe_ffn and a layer on several ranks have.
tools::Row common_cells(const json& figures) {
  const int turns = figures.at("turns");
  return {duration(median(figures.at("seconds"))),
          turns == 1 ? "-" : spread(summary_from(figures.at("seconds"))),
          fmt::format("{:.3f}", median(figures.at("of_arithmetic"))),
          fmt::format("{:.3f}", median(figures.at("of_dram"))),
          text(figures.at("bound_by")),
          fmt::format("{}", turns),
          fmt::format("{}", figures.at("unsteady").get<int>())};
}

tools::TextTable case_table(const json& cases) {
  tools::TextTable table = {{"tokens", "program", "threads", "speed-up", "in exchanges", "share", "bytes per token", "time",
                             "spread", "of arithmetic", "of DRAM", "bound by", "turns", "unsteady"},
                            {true, false, true, true, true, true, true, true, true, true, true, false, true, true},
                            {}};
  const auto add = [&](tools::Row row, const json& figures) {
    for (std::string& cell : common_cells(figures)) {
      row.push_back(std::move(cell));
    }
    table.rows.push_back(std::move(row));
  };
  for (const json& each : cases) {
    const std::string tokens = fmt::format("{}", each.at("tokens").get<std::int64_t>());
    const int ranks = each.at("ranks");
    const std::string threads = fmt::format("{}", ranks * each.at("threads").get<int>());
    if (each.contains("alone")) {
      add({tokens, "moe_ffn", threads, "-", "-", "-", "-"}, each.at("alone"));
    }
    add({tokens, fmt::format("{} rank{}", ranks, ranks == 1 ? "" : "s"), threads,
         each.at("speed_up").is_null() ? "-" : fmt::format("{:.2f}", median(each.at("speed_up"))),
         duration(median(each.at("exchange_seconds"))), fmt::format("{:.1f} %", 100 * median(each.at("exchange_share"))),
         fmt::format("{:.0f}", each.at("bytes_per_token").get<double>())},
        each);
  }
  return table;
}

std::vector<std::string> introduction(const ScaleReport& report) {
  const json& versions = report.figures.at("versions");
  const json& dispatch = report.figures.at("dispatch");
  const std::int64_t tokens = dispatch.at("tokens");
  std::string limits = "Limits: ";
  for (const auto& [name, how] : report.figures.at("limits").items()) {
    limits += fmt::format("{}{} ({})", limits.ends_with(' ') ? "" : ", ", name, text(how));
  }
  return {fmt::format("{}; experts divided in order over processes of this machine, which share its {} threads",
                      text(report.settings.at("layer")), report.machine.threads),
          fmt::format("gqmm {}, mpi4py {}, {}, NumPy {}, Python {}", text(versions.at("gqmm")), text(versions.at("mpi4py")),
                      text(versions.at("mpi")), text(versions.at("numpy")), text(versions.at("python"))),
          limits,
          fmt::format("Besides products, a layer on one rank takes {} with {} token{}: the plan, copies, and calls from Python",
                      duration(median(dispatch.at("seconds"))), tokens, tokens == 1 ? "" : "s"),
          explanation};
}

void write_table(std::ostream& out, const ScaleReport& report) {
  out << machine_line(report.machine) << '\n';
  for (const std::string& line : introduction(report)) {
    out << line << '\n';
  }
  out << '\n';
  tools::print_text(out, case_table(report.figures.at("cases")));
}

void write_markdown(std::ostream& out, const ScaleReport& report) {
  out << "# Experts on several ranks, " << report.date << "\n\n"
      << machine_line(report.machine) << ".\n\nMade by `" << report.command << "`. docs/dev/benchmarking.md says how.\n";
  for (const std::string& line : introduction(report)) {
    out << '\n' << line << ".\n";
  }
  out << '\n';
  tools::print_markdown(out, case_table(report.figures.at("cases")));
}

}  // namespace

void write(std::ostream& out, const ScaleReport& report, const std::string& format) {
  if (format == "json") {
    write_json(out, report, "gqmm_bench_scale", 1);
  } else if (format == "markdown") {
    write_markdown(out, report);
  } else {
    write_table(out, report);
  }
}

}  // namespace gqmm::bench
