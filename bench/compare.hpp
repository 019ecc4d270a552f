// The figures of a run beside those that a file keeps of an earlier one.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm::bench {

enum class Verdict {
  same,  ///< within the tolerance
  faster,
  slower,        ///< a regression
  not_compared,  ///< `why`
};

struct ComparedCase {
  std::string name;
  std::string limit;  ///< the one that bound the case before: "int8 dot", "float32 fma", "DRAM read"
  double before = 0;  ///< the median fraction of that limit
  double after = 0;
  double seconds_before = 0;  ///< of one call
  double seconds_after = 0;
  Verdict verdict = Verdict::same;
  std::string why;
};

struct Comparison {
  double tolerance = 0;
  std::vector<ComparedCase> cases;  ///< of both runs, in the order of this one; those that it lacks at the end

  [[nodiscard]] int count(Verdict verdict) const;
};

/// A file of `gqmm bench --json`. Throws io::FileError for a file that cannot be read, std::invalid_argument, naming the file and
/// the field, for JSON that lacks what compare() reads.
nlohmann::json read_figures(const std::filesystem::path& path);

/// Throws std::invalid_argument, naming both, if `before` was measured on another processor than `after`, on another number of
/// them, or with weights in other pages or a pool of another size: its fractions say nothing about these.
void check_comparable(const nlohmann::json& before, const nlohmann::json& after);

/// Compares fractions of the limit that binds, not times: a machine that is slower today is slower in both. A case is slower (or
/// faster) if its fraction is by more than `tolerance` of the earlier one smaller (larger).
/// Throws std::invalid_argument as check_comparable() does, and if no case is in both.
Comparison compare(const nlohmann::json& before, const nlohmann::json& after, double tolerance);

/// "5%" or "0.05". Throws std::invalid_argument, naming the option, for anything that is not between 0 and 1.
double fraction_from_text(std::string_view text, std::string_view option);

/// A row per compared case, a line for each that is not, and the totals. `markdown`: as a table of Markdown.
void write_comparison(std::ostream& out, const Comparison& comparison, bool markdown);

}  // namespace gqmm::bench
