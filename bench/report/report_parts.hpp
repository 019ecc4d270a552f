// Parts that every report has.
#pragma once

#include "measure/statistics.hpp"
#include "probes/probes.hpp"
#include "report/origin.hpp"

#include <nlohmann/json.hpp>

#include <ostream>
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
/// Describes the limits that models and ranks are compared with, by their names.
nlohmann::ordered_json limits_of_models(const Probes& probes);

/// Writes a report of figures that another process has measured. `kind` and `version` are of the document.
template <class Report>
void write_json(std::ostream& out, const Report& report, const std::string& kind, int version) {
  nlohmann::ordered_json document = {{kind, version},
                                     {"command", report.command},
                                     {"date", report.date},
                                     {"machine", to_json(report.machine)},
                                     {"settings", report.settings}};
  document.update(report.figures);
  out << document.dump(1) << '\n';
}

}  // namespace gqmm::bench
