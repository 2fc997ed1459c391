// Style sheet and script of report.html, as they stand in the page.
#ifndef OPTIQ_QUANT_REPORT_ASSETS_H_
#define OPTIQ_QUANT_REPORT_ASSETS_H_

namespace optiq {

extern const char kReportCss[];
extern const char kReportScript[];  // tooltips, sorting and filtering of the table; the page reads the same without it

}  // namespace optiq

#endif  // OPTIQ_QUANT_REPORT_ASSETS_H_
