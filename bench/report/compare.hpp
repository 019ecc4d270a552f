// Compares the figures of a run with the figures of an earlier run, which a file keeps.
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
  not_compared,  ///< `why` has the reason
};

struct ComparedCase {
  std::string name;
  std::string limit;  ///< the limit that bound the case in the earlier run: "int8 dot", "float32 fma" or "DRAM read"
  double before = 0;  ///< the median fraction of that limit in the earlier run
  double after = 0;
  double seconds_before = 0;  ///< seconds of one call in the earlier run
  double seconds_after = 0;
  Verdict verdict = Verdict::same;
  std::string why;
};

struct Comparison {
  double tolerance = 0;
  std::vector<ComparedCase> cases;  ///< the cases of both runs in this run's order, then the cases that this run lacks

  [[nodiscard]] int count(Verdict verdict) const;
};

/// Reads a file of `gqmm bench --json`. Former names of instruction sets are replaced by today's names. Throws io::FileError for
/// a file that cannot be read. Throws std::invalid_argument for JSON that lacks a field that compare() reads. The text names the
/// file and the field.
nlohmann::json read_figures(const std::filesystem::path& path);

/// Throws std::invalid_argument if the two runs cannot be compared. They must have the same kind and number of processors, the
/// same kind of pages for the weights, and a pool of the same size. The text names both values.
void check_comparable(const nlohmann::json& before, const nlohmann::json& after);

/// Compares fractions of the limit that binds. Times are not compared, because the machine itself may be slower today, and then
/// its limits are slower too. A case is slower if its fraction is below (1 - tolerance) times the earlier fraction. It is faster
/// if its fraction is above (1 + tolerance) times the earlier fraction. Throws std::invalid_argument as check_comparable() does,
/// and if no case is in both runs.
Comparison compare(const nlohmann::json& before, const nlohmann::json& after, double tolerance);

/// Reads a fraction such as "5%" or "0.05". Throws std::invalid_argument for a text that is not a number between 0 and 1. The
/// error names the option.
double fraction_from_text(std::string_view text, std::string_view option);

/// Writes a row for each compared case, a line for each other case, and the totals. With `markdown` the table is one of Markdown.
void write_comparison(std::ostream& out, const Comparison& comparison, bool markdown);

}  // namespace gqmm::bench
