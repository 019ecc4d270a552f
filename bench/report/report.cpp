#include "report/report.hpp"

#include "report/report_parts.hpp"
#include "tools/csv.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <ostream>
#include <set>
#include <stdexcept>
#include <tuple>

namespace gqmm::bench {
namespace {

/// Returns a mark for figures that are less certain than they look. notes() explains the marks.
std::string doubt(const CaseFigures& figures) {
  return !figures.mostly_rejected() ? "" : figures.repetitions > 0 ? " (?)" : " (!)";
}

std::string rejected(const CaseFigures& figures) {
  const int all = figures.repetitions + figures.rejected;
  return figures.rejected == 0 ? "0" : fmt::format("{} of {}{}", figures.rejected, all, doubt(figures));
}

std::string short_name(Limit limit) { return limit == Limit::int8_dot ? "int8" : limit == Limit::float32_fma ? "fma" : "DRAM"; }

const tools::Row settings_header = {"shape",     "T",       "rows/expert", "format", "x",
                                    "precision", "weights", "routing",     "isa",    "threads"};
const std::vector<bool> settings_numeric = {false, true, true, false, false, false, false, false, false, true};

tools::Row settings_cells(const CaseFigures& figures) {
  const Case& settings = figures.settings;
  return {settings.shape.name,
          fmt::format("{}", settings.tokens),
          fmt::format("{:.4g}", figures.rows_per_expert()),
          settings.format_name(),
          std::string(gqmm::name_of(settings.dtype)),
          std::string(gqmm::name_of(settings.precision)),
          settings.packed ? "packed" : "in place",
          std::string(name_of(settings.routing)),
          settings.isa,
          fmt::format("{}", settings.threads)};
}

template <class T>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

tools::TextTable case_table(const Report& report) {
  tools::TextTable table;
  table.header = joined<std::string>(
      settings_header, {"time", "spread", "GFLOP/s", "of peak", "GB/s", "of DRAM", "bound by", "error", "rejected"});
  table.numeric = joined<bool>(settings_numeric, {true, true, true, true, true, true, false, true, true});
  for (const CaseFigures& figures : report.cases) {
    const double seconds = figures.seconds.median;
    table.rows.push_back(
        joined<std::string>(settings_cells(figures),
                            {duration(seconds) + doubt(figures), spread(figures.seconds),
                             fmt::format("{:.4g}", figures.settings.operations() / seconds / 1e9),
                             fmt::format("{:.3f} {}", figures.arithmetic.fraction.median, short_name(figures.arithmetic.limit)),
                             fmt::format("{:.3g}", figures.bytes() / seconds / 1e9),
                             figures.settings.cached ? "cached" : fmt::format("{:.3f}", figures.memory.fraction.median),
                             short_name(figures.binding), fmt::format("{:.0e}", figures.error.relative), rejected(figures)}));
  }
  return table;
}

/// Makes the table of the suite "limits". Each cell has the fraction that a case reaches of the limit that binds it, by rows per
/// expert and by precision. If there are several instruction sets, each has rows of its own.
tools::TextTable limit_table(const Report& report) {
  tools::TextTable table = {{"threads", "rows/expert", "experts hit"}, {true, true, true}, {}};
  const bool several_isas = std::any_of(report.cases.begin(), report.cases.end(), [&](const CaseFigures& figures) {
    return figures.settings.isa != report.cases.front().settings.isa;
  });
  if (several_isas) {
    table.header.insert(table.header.begin(), "isa");
    table.numeric.insert(table.numeric.begin(), false);
  }
  std::map<std::tuple<std::string, int, double, double>, std::map<std::string, std::string>> cells;
  for (const CaseFigures& figures : report.cases) {
    const Case& settings = figures.settings;
    const std::string column = fmt::format("{}, {} {}", settings.packed ? "packed" : "in place", gqmm::name_of(settings.dtype),
                                           gqmm::name_of(settings.precision));
    const LimitFigures& limit = figures.binding == Limit::dram_read ? figures.memory : figures.arithmetic;
    cells[{settings.isa, settings.threads, figures.rows_per_expert(), figures.experts_hit}][column] =
        fmt::format("{:.3f} {}{}", limit.fraction.median, short_name(limit.limit), doubt(figures));
    if (std::find(table.header.begin(), table.header.end(), column) == table.header.end()) {
      table.header.push_back(column);
      table.numeric.push_back(true);
    }
  }
  for (auto& [key, row] : cells) {
    const auto& [isa, threads, rows, hit] = key;
    tools::Row texts = {fmt::format("{}", threads), fmt::format("{:.4g}", rows), fmt::format("{:.4g}", hit)};
    if (several_isas) {
      texts.insert(texts.begin(), isa);
    }
    for (std::size_t column = texts.size(); column < table.header.size(); ++column) {
      const std::string& cell = row[table.header[column]];
      texts.push_back(cell.empty() ? "-" : cell);
    }
    table.rows.push_back(std::move(texts));
  }
  return table;
}

const char* const limit_note =
    "A bfloat16 product at default precision takes two dot products per weight and activation and cannot exceed 1/2 of int8, a "
    "float32 product three and 1/3.";

tools::TextTable peer_table(const Report& report) {
  tools::TextTable table;
  table.header =
      joined<std::string>(settings_header, {"our time", "peer", "its time", "GFLOP/s", "times slower", "spread", "its error"});
  table.numeric = joined<bool>(settings_numeric, {true, false, true, true, true, true, true});
  for (const CaseFigures& figures : report.cases) {
    for (const PeerFigures& peer : figures.peers) {
      if (peer.repetitions > 0) {
        const double seconds = peer.seconds.median;
        table.rows.push_back(joined<std::string>(
            settings_cells(figures),
            {duration(figures.seconds.median) + doubt(figures), peer.peer.name, duration(seconds),
             fmt::format("{:.3g}", figures.settings.operations() / seconds / 1e9), fmt::format("{:.3g}", peer.ratio.median),
             spread(peer.ratio), fmt::format("{:.0e}", peer.peer.error)}));
      }
    }
  }
  return table;
}

/// Lists what each peer computes, and why other peers are missing.
std::set<std::string> peer_notes(const Report& report) {
  std::set<std::string> notes;
  for (const CaseFigures& figures : report.cases) {
    for (const PeerFigures& peer : figures.peers) {
      if (peer.peer.skipped.empty()) {
        notes.insert(fmt::format("{} ({}): {}", peer.peer.name, peer.peer.version, peer.peer.computes));
      } else {
        const bool missing = peer.peer.version.empty();
        notes.insert(fmt::format("{}{}: {}", missing ? "" : figures.settings.name() + ": ", peer.peer.name, peer.peer.skipped));
      }
    }
  }
  return notes;
}

/// Explains the marks of doubt(), then the peers.
std::vector<std::string> notes(const Report& report) {
  const auto any = [&](auto&& condition) { return std::any_of(report.cases.begin(), report.cases.end(), condition); };
  std::vector<std::string> notes;
  if (any([](const CaseFigures& figures) { return figures.mostly_rejected() && figures.repetitions > 0; })) {
    notes.emplace_back("(?) The machine changed during most of the repetitions; the figures come from the few others.");
  }
  if (any([](const CaseFigures& figures) { return figures.mostly_rejected() && figures.repetitions == 0; })) {
    notes.emplace_back("(!) The machine changed during every repetition; the figures mean little.");
  }
  const std::set<std::string> of_peers = peer_notes(report);
  notes.insert(notes.end(), of_peers.begin(), of_peers.end());
  return notes;
}

/// Removes the settings in which all rows agree from the table. Returns their text, which stands above the table.
std::string remove_common_settings(tools::TextTable& table) {
  std::string text;
  if (table.rows.size() < 2) {
    return text;
  }
  for (std::size_t column = settings_header.size(); column-- > 0;) {
    const std::string value = table.rows.front()[column];
    if (!std::all_of(table.rows.begin(), table.rows.end(), [&](const tools::Row& row) { return row[column] == value; })) {
      continue;
    }
    text = fmt::format("{} {}{}{}", table.header[column], value, text.empty() ? "" : ", ", text);
    const auto offset = static_cast<std::ptrdiff_t>(column);
    table.header.erase(table.header.begin() + offset);
    table.numeric.erase(table.numeric.begin() + offset);
    for (tools::Row& row : table.rows) {
      row.erase(row.begin() + offset);
    }
  }
  return text;
}

/// Lists the limits that were measured during the cases, for each number of threads.
std::vector<std::string> limit_lines(const Report& report) {
  struct Seen {
    std::vector<double> rates;
    std::string description;
  };
  std::map<std::pair<int, Limit>, Seen> seen;
  for (const CaseFigures& figures : report.cases) {
    for (const LimitFigures* limit : {&figures.arithmetic, &figures.memory}) {
      Seen& entry = seen[{figures.settings.threads, limit->limit}];
      entry.rates.push_back(limit->rate.median);
      entry.description = limit->description;
    }
  }
  std::vector<std::string> lines;
  for (const auto& [key, entry] : seen) {
    const auto [threads, limit] = key;
    const Summary rate = summarize(entry.rates);
    lines.push_back(fmt::format("{}, {} thread{}: {:.4g} {} ({:.4g} to {:.4g} between cases; {})", name_of(limit), threads,
                                threads == 1 ? "" : "s", rate.median / 1e9, unit_of(limit), rate.least / 1e9, rate.most / 1e9,
                                entry.description));
  }
  return lines;
}

}  // namespace

std::string spread(const Summary& summary) {
  return fmt::format("{:.1f} %", summary.median > 0 ? 50 * (summary.high - summary.low) / summary.median : 0.0);
}

std::string duration(double seconds) {
  if (seconds < 1e-3) {
    return fmt::format("{:.1f} us", seconds * 1e6);
  }
  return seconds < 1 ? fmt::format("{:.2f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

std::string machine_line(const MachineFacts& machine) {
  std::string sets;
  for (const std::string& set : machine.instruction_sets) {
    sets += (sets.empty() ? "" : " ") + set;
  }
  return fmt::format(
      "{}; {} processors, {:.0f} MiB last-level cache, {:.0f} GiB memory, {}, transparent huge pages {}; gqmm {}{} ({}), {}",
      machine.cpu, machine.processors, static_cast<double>(machine.last_level_cache) / 0x1p20,
      static_cast<double>(machine.memory) / 0x1p30, machine.kernel, machine.huge_pages, machine.library_version,
      machine.library_revision.empty() ? "" : ", revision " + machine.library_revision, sets, machine.compiler);
}

void write_table(std::ostream& out, const Report& report) {
  out << machine_line(report.machine) << '\n';
  for (const std::string& line : limit_lines(report)) {
    out << line << '\n';
  }
  tools::TextTable cases = case_table(report);
  const std::string common = remove_common_settings(cases);
  out << '\n' << common << (common.empty() ? "" : "\n");
  tools::print_text(out, cases);
  if (report.suite == "limits") {
    out << "\nFractions of the limit that binds. " << limit_note << '\n';
    tools::print_text(out, limit_table(report));
  }
  if (tools::TextTable peers = peer_table(report); !peers.rows.empty()) {
    const std::string common_to_peers = remove_common_settings(peers);
    out << "\nPeers. " << common_to_peers << '\n';
    tools::print_text(out, peers);
  }
  for (const std::string& note : notes(report)) {
    out << note << '\n';
  }
}

void write_markdown(std::ostream& out, const Report& report) {
  out << "# Benchmark of " << report.date << "\n\n";
  out << machine_line(report.machine) << ".\n\nMade by `" << report.command << "`. docs/dev/benchmarking.md says how.\n\n";
  out << "The limits of this machine, measured before and after each repetition:\n\n";
  for (const std::string& line : limit_lines(report)) {
    out << "- " << line << '\n';
  }
  if (report.suite == "limits") {
    out << "\n## Fractions of the limit that binds\n\n" << limit_note << "\n\n";
    tools::print_markdown(out, limit_table(report));
  }
  tools::TextTable cases = case_table(report);
  const std::string common = remove_common_settings(cases);
  out << "\n## Cases\n\n" << common << (common.empty() ? "" : ".\n\n");
  tools::print_markdown(out, cases);
  if (tools::TextTable peers = peer_table(report); !peers.rows.empty()) {
    const std::string common_to_peers = remove_common_settings(peers);
    out << "\n## Peers, in the same run\n\n" << common_to_peers << (common_to_peers.empty() ? "" : ".\n\n");
    tools::print_markdown(out, peers);
  }
  out << '\n';
  for (const std::string& note : notes(report)) {
    out << "- " << note << '\n';
  }
}

void write_csv(std::ostream& out, const Report& report) {
  const auto number = [](double value) { return fmt::format("{:.6g}", value); };
  const auto short_number = [](double value) { return fmt::format("{:.4g}", value); };
  const auto write_record = [&](const std::vector<std::string>& fields) { out << tools::csv_record(fields); };
  write_record({"case", "program", "seconds", "seconds_first_quartile", "seconds_third_quartile", "operations_per_second",
                "bytes_per_second", "fraction_of_arithmetic_limit", "fraction_of_dram_read", "relative_error", "repetitions",
                "rejected", "times_slower"});
  for (const CaseFigures& figures : report.cases) {
    const std::string name = figures.settings.name();
    const Summary& seconds = figures.seconds;
    write_record({name, "gqmm", number(seconds.median), number(seconds.low), number(seconds.high),
                  number(figures.settings.operations() / seconds.median), number(figures.bytes() / seconds.median),
                  short_number(figures.arithmetic.fraction.median), short_number(figures.memory.fraction.median),
                  fmt::format("{:.3g}", figures.error.relative), fmt::format("{}", figures.repetitions),
                  fmt::format("{}", figures.rejected), "1"});
    for (const PeerFigures& peer : figures.peers) {
      if (peer.repetitions > 0) {
        write_record({name, peer.peer.name, number(peer.seconds.median), number(peer.seconds.low), number(peer.seconds.high),
                      number(figures.settings.operations() / peer.seconds.median), "", "", "",
                      fmt::format("{:.3g}", peer.peer.error), fmt::format("{}", peer.repetitions), "",
                      short_number(peer.ratio.median)});
      }
    }
  }
}

void write(std::ostream& out, const Report& report, const std::string& format) {
  const std::map<std::string, void (*)(std::ostream&, const Report&)> writers = {
      {"table", write_table}, {"markdown", write_markdown}, {"csv", write_csv}, {"json", write_json}};
  const auto found = writers.find(format);
  if (found == writers.end()) {
    throw std::invalid_argument(fmt::format("[bench] format = '{}' is unknown; use table, markdown, csv or json", format));
  }
  found->second(out, report);
}

nlohmann::ordered_json limits_of_models(const Probes& probes) {
  nlohmann::ordered_json result;
  for (const Limit limit : {Limit::int8_dot, Limit::float32_fma, Limit::dram_read}) {
    result[std::string(name_of(limit))] = probes.description(limit);
  }
  return result;
}

}  // namespace gqmm::bench
