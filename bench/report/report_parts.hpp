// Parts that every report has.
#pragma once

#include "measure/statistics.hpp"
#include "report/origin.hpp"

#include <nlohmann/json.hpp>

#include <string>

namespace gqmm::bench {

/// Describes the machine in one line: "AMD EPYC, …; 2 processors, 32 MiB last-level cache, …".
std::string machine_line(const MachineFacts& machine);
/// Writes a time with its unit: "12.3 us", "4.56 ms".
std::string duration(double seconds);
/// Returns half the distance between the quartiles, relative to the median: "1.2 %".
std::string spread(const Summary& summary);

nlohmann::ordered_json to_json(const Summary& summary);
nlohmann::ordered_json to_json(const MachineFacts& machine);

}  // namespace gqmm::bench
