#include "report/compare.hpp"

#include "cpu/instruction_set_names.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"
#include "report/report_parts.hpp"
#include "tools/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <ostream>
#include <span>
#include <stdexcept>

namespace gqmm::bench {
namespace {

using nlohmann::json;

/// A field of a file that compare() reads.
struct Field {
  const char* pointer;
  bool (json::*has_type)() const;
  const char* type;
};
constexpr Field machine_fields[] = {{"/machine/cpu", &json::is_string, "a text"},
                                    {"/machine/processors", &json::is_number_integer, "a whole number"}};
constexpr Field case_fields[] = {{"/name", &json::is_string, "a text"},
                                 {"/repetitions", &json::is_number_integer, "a whole number"},
                                 {"/bound_by", &json::is_string, "a text"},
                                 {"/seconds/median", &json::is_number, "a number"},
                                 {"/arithmetic/limit", &json::is_string, "a text"},
                                 {"/arithmetic/measured_by", &json::is_string, "a text"},
                                 {"/arithmetic/fraction/median", &json::is_number, "a number"},
                                 {"/memory/limit", &json::is_string, "a text"},
                                 {"/memory/measured_by", &json::is_string, "a text"},
                                 {"/memory/fraction/median", &json::is_number, "a number"}};

/// Returns the value at a pointer, or null if there is none.
json at_pointer(const json& document, const std::string& pointer) {
  const json::json_pointer where(pointer);
  return document.contains(where) ? document.at(where) : json();
}

void check_fields(const json& object, std::span<const Field> fields, const std::string& what) {
  for (const Field& field : fields) {
    const json value = at_pointer(object, field.pointer);
    if (!(value.*field.has_type)()) {
      const std::string found = value.is_null() ? "nothing" : value.is_structured() ? value.type_name() : value.dump();
      throw std::invalid_argument(fmt::format("[bench] {}: {} where {} should be, at {}; the file is damaged, or of another gqmm",
                                              what, found, field.type, field.pointer));
    }
  }
}

/// Returns the value of an option that changes the limits, as text. It is empty for an older file, which has no such field.
std::string method_of(const json& document, const std::string& option) {
  const json value = at_pointer(document, option == "--pool" ? "/method/pool_bytes" : "/method/weight_pages");
  if (value.is_number()) {
    return fmt::format("{} {}", option, value.get<double>() / 0x1p20);
  }
  return value.is_string() ? fmt::format("{} {}", option, value.get<std::string>()) : std::string();
}

const json* case_named(const json& document, const std::string& name) {
  for (const json& each : document.at("cases")) {
    if (each.at("name") == name) {
      return &each;
    }
  }
  return nullptr;
}

/// Returns the figures of one of the case's two limits, "arithmetic" or "memory".
const json& limit_figures(const json& figures, const std::string& limit) {
  return figures.at(limit == "DRAM read" ? "memory" : "arithmetic");
}

/// Returns the reason why the two figures of a case cannot be compared. It is empty if they can.
std::string obstacle(const json& before, const json& after, const std::string& limit) {
  if (before.at("repetitions") == 0 || after.at("repetitions") == 0) {
    return fmt::format("the machine changed during every repetition {}", after.at("repetitions") == 0 ? "of this run" : "before");
  }
  const json& then = limit_figures(before, limit);
  const json& now = limit_figures(after, limit);
  const auto text = [](const json& figures, const char* key) { return figures.at(key).get<std::string>(); };
  if (then.at("limit") != now.at("limit")) {
    return fmt::format("the limit was {}, and is {} now", text(then, "limit"), text(now, "limit"));
  }
  // DRAM read may be measured in another way, because every run chooses the best way of reading memory. For the other limits
  // another instruction is another limit.
  if (limit != "DRAM read" && then.at("measured_by") != now.at("measured_by")) {
    return fmt::format("the limit was measured with {}, and is with {} now", text(then, "measured_by"), text(now, "measured_by"));
  }
  return {};
}

ComparedCase compare_case(const json& before, const json& after, double tolerance) {
  ComparedCase result;
  result.name = after.at("name");
  result.limit = before.at("bound_by");
  result.before = limit_figures(before, result.limit).at("fraction").at("median");
  result.after = limit_figures(after, result.limit).at("fraction").at("median");
  result.seconds_before = before.at("seconds").at("median");
  result.seconds_after = after.at("seconds").at("median");
  result.why = obstacle(before, after, result.limit);
  if (!result.why.empty() || !(result.before > 0)) {
    result.verdict = Verdict::not_compared;
  } else if (result.after < result.before * (1 - tolerance)) {
    result.verdict = Verdict::slower;
  } else if (result.after > result.before * (1 + tolerance)) {
    result.verdict = Verdict::faster;
  }
  return result;
}

ComparedCase absent(const std::string& name, const std::string& why) {
  ComparedCase result;
  result.name = name;
  result.verdict = Verdict::not_compared;
  result.why = why;
  return result;
}

std::string description_of(const json& machine) {
  return fmt::format("{} ({} processors)", machine.at("cpu").get<std::string>(), machine.at("processors").get<int>());
}

std::string_view name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::slower: return "SLOWER";
    case Verdict::faster: return "faster";
    case Verdict::not_compared: return "not compared";
    case Verdict::same: break;
  }
  return "same";
}

/// Replaces the instruction set's name that an older gqmm wrote by today's name.
void rename_instruction_set(json& figures) {
  const json set = figures.value("instruction_set", json());
  if (!set.is_string()) {
    return;
  }
  const auto old_name = set.get<std::string>();
  const std::string new_name(cpu::current_name(old_name));
  if (new_name == old_name) {
    return;
  }
  figures["instruction_set"] = new_name;
  std::string name = figures.at("name");
  const std::size_t at =
      name.rfind(fmt::format(" {} ", old_name));  // the last place is taken, because the shape's name may hold the same word
  if (at != std::string::npos) {
    name.replace(at + 1, old_name.size(), new_name);
    figures["name"] = name;
  }
}

}  // namespace

int Comparison::count(Verdict verdict) const {
  return static_cast<int>(
      std::count_if(cases.begin(), cases.end(), [&](const ComparedCase& each) { return each.verdict == verdict; }));
}

json read_figures(const std::filesystem::path& path) {
  const auto file = io::MappedFile::open(path);
  json document = io::parse_json(file->text(), path.string());
  const bool report = document.is_object() && document.value("gqmm_bench", json()) == 1 && document.contains("machine") &&
                      document.contains("cases") && document["cases"].is_array();
  if (!report) {
    throw std::invalid_argument(
        fmt::format("[bench] {} holds no figures of `gqmm bench`; make some with `gqmm bench --json FILE`", path.string()));
  }
  check_fields(document, machine_fields, path.string());
  for (json& each : document["cases"]) {
    const json name = at_pointer(each, "/name");
    check_fields(each, case_fields, fmt::format("{}: case {}", path.string(), name.is_string() ? name.dump() : "without a name"));
    rename_instruction_set(each);
  }
  return document;
}

void check_comparable(const json& before, const json& after) {
  const std::string then = description_of(before.at("machine"));
  const std::string now = description_of(after.at("machine"));
  if (then != now) {
    throw std::invalid_argument(fmt::format(
        "[bench] the saved figures are of another machine, {}; this one is {}. Save some of this one with --json FILE", then,
        now));
  }
  for (const char* option : {"--pages", "--pool"}) {
    const std::string saved = method_of(before, option);
    const std::string used = method_of(after, option);
    if (saved != used && !saved.empty() && !used.empty()) {
      throw std::invalid_argument(fmt::format(
          "[bench] the saved figures were made with {}, these with {}; measure both with the same setting", saved, used));
    }
  }
}

Comparison compare(const json& before, const json& after, double tolerance) {
  check_comparable(before, after);
  Comparison result;
  result.tolerance = tolerance;
  bool any = false;
  for (const json& each : after.at("cases")) {
    const std::string name = each.at("name");
    const json* earlier = case_named(before, name);
    any = any || earlier != nullptr;
    result.cases.push_back(earlier == nullptr ? absent(name, "not among the saved figures")
                                              : compare_case(*earlier, each, tolerance));
  }
  if (!any) {
    throw std::invalid_argument(
        "[bench] no case of this run is among the saved figures; measure the same cases (`command` in the file)");
  }
  for (const json& each : before.at("cases")) {
    const std::string name = each.at("name");
    if (case_named(after, name) == nullptr) {
      result.cases.push_back(absent(name, "not measured this time"));
    }
  }
  return result;
}

double fraction_from_text(std::string_view text, std::string_view option) {
  double value = -1;
  const bool percent = text.ends_with('%');
  const std::string_view digits = text.substr(0, text.size() - (percent ? 1 : 0));
  const auto [end, error] = std::from_chars(digits.begin(), digits.end(), value);
  const bool number = error == std::errc() && end == digits.end() && std::isfinite(value);
  value /= percent ? 100 : 1;
  if (!number || value < 0 || value >= 1) {
    throw std::invalid_argument(fmt::format("[bench] {} = '{}' is not a fraction; write 5% or 0.05", option, text));
  }
  return value;
}

void write_comparison(std::ostream& out, const Comparison& comparison, bool markdown) {
  tools::TextTable table = {{"case", "limit", "before", "now", "change", "time before", "time now", "verdict"},
                            {false, false, true, true, true, true, true, false},
                            {}};
  std::vector<std::string> notes;
  for (const ComparedCase& each : comparison.cases) {
    if (each.verdict == Verdict::not_compared) {
      notes.push_back(fmt::format("not compared: {}: {}", each.name, each.why));
    } else {
      table.rows.push_back({each.name, each.limit, fmt::format("{:.3g}", each.before), fmt::format("{:.3g}", each.after),
                            fmt::format("{:+.1f} %", 100 * (each.after / each.before - 1)), duration(each.seconds_before),
                            duration(each.seconds_after), std::string(name_of(each.verdict))});
    }
  }
  out << (markdown ? "\n## Compared with saved figures\n\n" : "\nCompared with saved figures, as fractions of the limit\n");
  if (!table.rows.empty()) {
    markdown ? tools::print_markdown(out, table) : tools::print_text(out, table);
  }
  out << (markdown ? "\n" : "");
  for (const std::string& note : notes) {
    out << (markdown ? "- " : "") << note << '\n';
  }
  out << fmt::format("{}{} slower by more than {:.3g} %, {} faster, {} the same, {} not compared\n", markdown ? "\n" : "",
                     comparison.count(Verdict::slower), 100 * comparison.tolerance, comparison.count(Verdict::faster),
                     comparison.count(Verdict::same), comparison.count(Verdict::not_compared));
}

}  // namespace gqmm::bench
