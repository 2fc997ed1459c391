// Aligned text tables.
#ifndef OPTIQ_CLI_TABLE_H_
#define OPTIQ_CLI_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace optiq {

// Columns that the text takes on a terminal: wide East Asian characters and emoji count 2, combining marks 0, others 1.
int DisplayWidth(std::string_view utf8);

enum class Align { kLeft, kRight };

class Table {
 public:
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // As many cells as columns; missing ones are empty.
  void AddRow(std::vector<std::string> cells);
  // A line between the rows before and after.
  void AddRule() { rows_.emplace_back(); }

  // Header, rule, rows; two spaces between columns, no spaces at the ends of lines.
  std::string Render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

}  // namespace optiq

#endif  // OPTIQ_CLI_TABLE_H_
