// What fmt's headers only declare, compiled once: header-only, each file that formats would take 2 to 3 s more to compile. The
// library brings its own because Debian has fmt as a shared library alone, which a program that uses gqmm would need too.
#include <fmt/format.h>

// Weak, as the inline functions of header-only fmt are: a program may have an fmt beside this one.
#undef FMT_FUNC
#define FMT_FUNC [[gnu::weak]]
#include <fmt/format-inl.h>

FMT_BEGIN_NAMESPACE
namespace detail {

template dragonbox::decimal_fp<float> dragonbox::to_decimal(float) noexcept;
template dragonbox::decimal_fp<double> dragonbox::to_decimal(double) noexcept;
template thousands_sep_result<char> thousands_sep_impl(locale_ref);
template char decimal_point_impl(locale_ref);

}  // namespace detail
FMT_END_NAMESPACE
