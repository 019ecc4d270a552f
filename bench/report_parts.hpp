// What every report says.
#pragma once

#include "machine.hpp"
#include "statistics.hpp"

#include <nlohmann/json.hpp>

#include <string>

namespace gqmm::bench {

/// "AMD EPYC, …; 2 processors, 32 MiB last-level cache, …": the machine in one line.
std::string machine_line(const Machine& machine);
/// "1.2 %": half the distance between the quartiles, relative to the median.
std::string spread(const Summary& summary);

nlohmann::ordered_json to_json(const Summary& summary);
nlohmann::ordered_json to_json(const Machine& machine);

}  // namespace gqmm::bench
