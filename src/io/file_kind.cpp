#include "io/file_kind.hpp"

#include <algorithm>

namespace gqmm::io {
namespace {

struct FileKind {
  std::string_view beginning;
  std::string_view sentence;
};

constexpr std::string_view web_page =
    "is a web page, not the file itself; download the file again, with `hf download` or its \"resolve\" address";
constexpr std::string_view utf16 = "is text in UTF-16; save it as UTF-8";

constexpr std::string_view lfs_pointer =
    "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or download it with `hf download`";

constexpr FileKind kinds[] = {
    {"version https://git-lfs.github.com/spec/", lfs_pointer},
    {"version https://hawser.github.com/spec/", lfs_pointer},
    {"GGUF", "is a GGUF file, which only llama.cpp and its relatives read; take the model in MLX's format"},
    {"PK\x03\x04", "is a zip archive, as PyTorch's .bin and NumPy's .npz files are; convert it to safetensors"},
    {"\x93NUMPY", "is a NumPy array; convert it to safetensors"},
    {"\x80\x02", "is a Python pickle, as old PyTorch files are; convert it to safetensors"},
    {"\x89HDF", "is an HDF5 file; convert it to safetensors"},
    {"<!DOCTYPE", web_page},
    {"<!doctype", web_page},
    {"<html", web_page},
    {"Entry not found", "is an error message of the Hugging Face hub, not the file itself; download the file again"},
    {"Invalid username or password", "is an error message of the Hugging Face hub; log in and download the file again"},
    {"\xff\xfe", utf16},
    {"\xfe\xff", utf16},
};

}  // namespace

std::string_view describe_other_kind(std::string_view bytes) {
  if (bytes.empty()) {
    return "is empty, as a download that was cut off leaves it; download the file again";
  }
  const auto* found = std::find_if(std::begin(kinds), std::end(kinds),
                                   [bytes](const FileKind& kind) { return bytes.starts_with(kind.beginning); });
  return found == std::end(kinds) ? std::string_view() : found->sentence;
}

bool is_lfs_pointer(std::string_view bytes) { return describe_other_kind(bytes) == lfs_pointer; }

}  // namespace gqmm::io
