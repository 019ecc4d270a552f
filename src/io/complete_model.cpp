#include "io/complete_model.hpp"

#include "io/error.hpp"
#include "io/mapped_file.hpp"
#include "io/model_files.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>

namespace gqmm::io {
namespace {

constexpr std::string_view remedy = "complete the download";

/// The parts of a file name such as "NAME-00002-of-00003.safetensors", which is the second file of three.
struct ShardName {
  std::string set;  // the name without its number, which all files of the model share
  int number = 0;
  int count = 0;
};

std::optional<int> number_of(std::string_view digits) {
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return error == std::errc() && end == digits.data() + digits.size() ? std::optional(value) : std::nullopt;
}

std::optional<ShardName> parse_shard_name(const std::string& name) {
  constexpr std::string_view of = "-of-";
  const std::size_t middle = name.rfind(of);
  const std::size_t dash = middle == std::string::npos || middle == 0 ? std::string::npos : name.rfind('-', middle - 1);
  const std::size_t dot = name.find('.', middle == std::string::npos ? 0 : middle);
  if (dash == std::string::npos || dot == std::string::npos) {
    return std::nullopt;
  }
  const auto number = number_of(std::string_view(name).substr(dash + 1, middle - dash - 1));
  const auto count = number_of(std::string_view(name).substr(middle + of.size(), dot - middle - of.size()));
  return number && count ? std::optional(ShardName{name.substr(0, dash) + name.substr(middle), *number, *count}) : std::nullopt;
}

void check_shards(const Checkpoint& checkpoint) {
  std::map<std::string, std::pair<int, std::set<int>>> sets;
  for (const std::filesystem::path& file : checkpoint.files) {
    if (const auto shard = parse_shard_name(file.filename())) {
      sets[shard->set].first = shard->count;
      sets[shard->set].second.insert(shard->number);
    }
  }
  for (const auto& [set, shards] : sets) {
    for (int number = 1; number <= shards.first; ++number) {
      if (!shards.second.contains(number)) {
        throw FileError(checkpoint.path.native(),
                        fmt::format("has no file {} of the {} of {}; {}", number, shards.first, in_quotes(set), remedy));
      }
    }
  }
}

void check_index(const Checkpoint& checkpoint) {
  const std::filesystem::path index = checkpoint.path / "model.safetensors.index.json";
  std::error_code error;
  if (!std::filesystem::is_regular_file(index, error)) {
    return;
  }
  const auto weight_map = parse_weight_map(MappedFile::open(index)->text(), index.native());
  const bool of_this_model = std::all_of(checkpoint.tensors.begin(), checkpoint.tensors.end(),
                                         [&](const auto& tensor) { return weight_map.contains(tensor.first); });
  const auto missing = std::find_if(weight_map.begin(), weight_map.end(),
                                    [&](const auto& entry) { return !checkpoint.tensors.contains(entry.first); });
  if (of_this_model && missing != weight_map.end()) {
    throw FileError(checkpoint.path.native(), fmt::format("has no tensor {}, which its index has in {}; {}",
                                                          in_quotes(missing->first), in_quotes(missing->second), remedy));
  }
}

}  // namespace

void check_complete(const Checkpoint& checkpoint) {
  std::error_code error;
  if (std::filesystem::is_directory(checkpoint.path, error)) {
    check_shards(checkpoint);
    check_index(checkpoint);
  }
}

}  // namespace gqmm::io
