#include "cli/commands.hpp"
#include "cli/expert_check.hpp"
#include "cli/output.hpp"
#include "cli/scale_check.hpp"
#include "io/checkpoint.hpp"
#include "io/error.hpp"
#include "tools/progress.hpp"
#include "tools/validators.hpp"

#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <utility>

namespace gqmm::cli {
namespace {

struct CheckArguments {
  std::string path;
  io::AssumedSettings assumed;
  CheckSettings settings;
  bool all = false;
  OutputFormat format = OutputFormat::table;
};

/// The result of the check of one tensor with x of one type.
struct NamedResult {
  std::string name;
  CheckResult result;
  std::int64_t not_finite = 0;  ///< how many scales, biases and global scales of the tensor are NaN or infinite

  [[nodiscard]] bool passed() const noexcept { return result.passed() && not_finite == 0; }
};

/// The types of x with which a checkpoint is checked: float32, bfloat16 and the types of its own floating-point tensors.
std::set<Dtype> activation_types(const io::Checkpoint& checkpoint) {
  std::set<Dtype> types = {Dtype::float32, Dtype::bfloat16};
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (tensor.dtype() && is_compute_float(*tensor.dtype())) {
      types.insert(*tensor.dtype());
    }
  }
  return types;
}

/// The tensors of a checkpoint. Those in `checked` are multiplied, and of the others only the scales are checked.
struct Selection {
  std::vector<io::QuantizedTensor> checked;
  std::vector<io::QuantizedTensor> others;
};

Selection tensors_to_check(const io::Checkpoint& checkpoint, const CheckArguments& arguments) {
  Selection selection;
  for (io::QuantizedTensor& tensor : io::quantized_tensors(checkpoint, arguments.assumed)) {
    auto& list = arguments.all || tensor.is_expert_tensor() ? selection.checked : selection.others;
    list.push_back(std::move(tensor));
  }
  if (selection.checked.empty()) {
    throw io::FileError(checkpoint.path.native(),
                        selection.others.empty() ? "there is no quantized tensor to check; `gqmm quantize` makes some"
                                                 : fmt::format("none of {} quantized tensors holds several experts; check them "
                                                               "with --all",
                                                               selection.others.size()));
  }
  return selection;
}

/// Reports on the standard error stream which arrays of the tensor hold NaN or infinity. Returns the number of such values.
std::int64_t report_not_finite(const io::QuantizedTensor& tensor, tools::ProgressBar& bar) {
  std::int64_t count = 0;
  for (const NotFinite& found : find_not_finite(tensor)) {
    bar.clear();
    fmt::print(stderr, "gqmm: {}: {}; the checkpoint is damaged, download or quantize it again\n", io::printable(tensor.name),
               describe(found));
    count += found.count;
  }
  return count;
}

std::vector<NamedResult> run_checks(const CheckArguments& arguments) {
  const io::Checkpoint checkpoint = io::open_checkpoint(arguments.path);
  const auto [tensors, others] = tensors_to_check(checkpoint, arguments);
  const std::set<Dtype> types = activation_types(checkpoint);
  std::vector<NamedResult> results;
  tools::ProgressBar bar;
  for (const io::QuantizedTensor& tensor : tensors) {
    const std::int64_t not_finite = report_not_finite(tensor, bar);
    for (const Dtype type : types) {
      bar.show(static_cast<double>(results.size()) / static_cast<double>(tensors.size() * types.size()),
               fmt::format("{} {}", io::printable(tensor.name), name_of(type)));
      CheckSettings settings = arguments.settings;
      settings.seed += results.size();
      results.push_back({tensor.name, check_tensor(tensor, type, settings), not_finite});
    }
  }
  if (std::all_of(results.begin(), results.end(), [](const NamedResult& each) { return each.result.compared == 0; })) {
    throw io::FileError(checkpoint.path.native(),
                        fmt::format("nothing was compared: none of its {} quantized tensors has any output", tensors.size()));
  }
  for (const io::QuantizedTensor& tensor : others) {
    if (const std::int64_t not_finite = report_not_finite(tensor, bar); not_finite != 0) {
      results.push_back({tensor.name, {}, not_finite});
    }
  }
  return results;
}

/// The rows of the report. JSON has no infinity and no NaN, so such values are null there, and "passed" tells the result.
/// "passed" is null for a tensor that has no outputs to compare, unless its scales are damaged.
Rows rows_of(const std::vector<NamedResult>& results, bool details) {
  std::vector<std::string> keys = {"tensor", "x", "result", "compared", "worst_of_bound", "expert", "row", "n", "passed"};
  if (details) {
    keys.insert(keys.end(), {"value", "expected", "bound", "outputs", "unwritten", "not_finite"});
  }
  Rows rows(std::move(keys));
  for (const NamedResult& each : results) {
    const auto& [name, result, not_finite] = each;
    const CheckedOutput& worst = result.worst;
    std::vector<Rows::Value> values = {name,
                                       std::string(name_of(result.x_dtype)),
                                       std::string(name_of(result.y_dtype)),
                                       result.compared,
                                       worst.fraction,
                                       worst.expert,
                                       worst.row,
                                       worst.n,
                                       result.compared == 0 && not_finite == 0 ? Rows::Value() : Rows::Value(each.passed())};
    if (details) {
      values.insert(values.end(), {worst.value, worst.expected, worst.bound, result.outputs, result.unwritten, not_finite});
    }
    rows.add(std::move(values));
  }
  return rows;
}

void report_failures(const std::vector<NamedResult>& results) {
  for (const auto& [name, result, not_finite] : results) {
    const CheckedOutput& worst = result.worst;
    const std::string where = fmt::format("{}, x {}", io::printable(name), name_of(result.x_dtype));
    if (result.unwritten != 0) {
      fmt::print(stderr, "gqmm: {}: {} of {} outputs were not written\n", where, result.unwritten, result.outputs);
    }
    if (!(worst.fraction <= 1.0)) {
      fmt::print(stderr, "gqmm: {}: output (expert {}, row {}, n {}) is {:.9g}, should be {:.9g} within {:.3g}\n", where,
                 worst.expert, worst.row, worst.n, worst.value, worst.expected, worst.bound);
    }
  }
}

void check(const CheckArguments& arguments, int& exit_status) {
  const std::string isa(active_instruction_set());
  const int threads = arguments.settings.threads > 0 ? arguments.settings.threads : get_num_threads();
  const std::vector<NamedResult> results = run_checks(arguments);
  std::int64_t compared = 0;
  std::size_t failed = 0;
  double worst = 0;
  for (const NamedResult& each : results) {
    compared += each.result.compared;
    failed += each.passed() ? 0 : 1;
    worst = std::max(worst, each.result.worst.fraction);
  }
  switch (arguments.format) {
    case OutputFormat::csv: print(rows_of(results, true).csv()); break;
    case OutputFormat::json:
      print(json_text({{"path", arguments.path},
                       {"instruction_set", isa},
                       {"threads", threads},
                       {"precision", std::string(name_of(arguments.settings.precision))},
                       {"seed", arguments.settings.seed},
                       {"compared", compared},
                       {"worst_of_bound", worst},
                       {"failed", failed},
                       {"checks", rows_of(results, true).json()}}));
      break;
    case OutputFormat::table:
      print(rows_of(results, false).table());
      print(
          fmt::format("\n{} outputs compared with the reference on {}, {} thread{}: the worst error is {:.3f} of its bound; {}\n",
                      compared, isa, threads, threads == 1 ? "" : "s", worst,
                      failed == 0 ? "all checks passed" : fmt::format("{} of {} checks FAILED", failed, results.size())));
      break;
  }
  report_failures(results);
  exit_status = failed == 0 ? 0 : 1;
}

}  // namespace

void add_check_command(CLI::App& program, int& exit_status) {
  const auto arguments = std::make_shared<CheckArguments>();
  CLI::App* command = program.add_subcommand("check", "Compare gather_qmm on a checkpoint's tensors with the reference");
  command->add_option("PATH", arguments->path, "A safetensors file, or the folder of a model")->required();
  command->add_flag("--all", arguments->all, "Check every quantized tensor, not only those of experts");
  command->add_option("--samples", arguments->settings.samples, "How many outputs are compared for each tensor and type")
      ->check(tools::above_zero<std::int64_t>())
      ->capture_default_str();
  command->add_option("--seed", arguments->settings.seed, "The seed of the random activations and of the choice of outputs")
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--precision",
          [arguments](const std::string& name) { arguments->settings.precision = precision_from_name(name, "--precision"); },
          "default, fast or float32")
      ->default_str("default")
      ->type_name("PRECISION");
  command
      ->add_option("--threads", arguments->settings.threads, "The number of threads; as many as are available if it is not given")
      ->check(tools::whole_number_to(Stream::max_threads));
  add_format_option(*command, arguments->format);
  add_assumed_settings(*command, arguments->assumed);
  command->footer(
      R"(Each tensor is multiplied with random activations in float32, bfloat16 and the checkpoint's own floating-point types. A sample of the
outputs is compared with a double-precision evaluation of the packed bits; the error of each is given as a fraction of the bound
that docs/reference/numerics.md derives. The exit status is 1 if an error is beyond its bound, or if scales or biases of any quantized
tensor are NaN or infinite. It is 2 if nothing could be compared.

Examples:
  gqmm check path/to/model
  gqmm check path/to/model --all --samples 10000 --precision fast
  GQMM_ISA=scalar gqmm check path/to/model --format json)");
  command->callback([arguments, &exit_status] { check(*arguments, exit_status); });
}

}  // namespace gqmm::cli
