#include "cli/format.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cli/table.h"
#include "cli/terminal.h"

namespace optiq {
namespace {

TEST(Format, Bytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1 KB");
  EXPECT_EQ(FormatBytes(1500), "1.5 KB");
  EXPECT_EQ(FormatBytes(999'400), "999 KB");
  EXPECT_EQ(FormatBytes(999'900), "1 MB");
  EXPECT_EQ(FormatBytes(2'345'678'901.0), "2.35 GB");
  EXPECT_EQ(FormatBytes(12'345'678'901.0), "12.3 GB");
}

TEST(Format, Counts) {
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(134'515'008), "135M");
  EXPECT_EQ(FormatCount(1'020'000'000), "1.02B");
  EXPECT_EQ(FormatInteger(0), "0");
  EXPECT_EQ(FormatInteger(999), "999");
  EXPECT_EQ(FormatInteger(1000), "1,000");
  EXPECT_EQ(FormatInteger(-1234567), "-1,234,567");
  EXPECT_EQ(FormatInteger(-123), "-123");
}

TEST(Format, Durations) {
  EXPECT_EQ(FormatDuration(0.04), "0.0 s");
  EXPECT_EQ(FormatDuration(9.94), "9.9 s");
  EXPECT_EQ(FormatDuration(9.96), "10 s");
  EXPECT_EQ(FormatDuration(59.4), "59 s");
  EXPECT_EQ(FormatDuration(59.9), "1:00");
  EXPECT_EQ(FormatDuration(3725), "1:02:05");
  EXPECT_EQ(FormatDuration(-1), "?");
  EXPECT_EQ(FormatDuration(std::nan("")), "?");
}

TEST(Table, AlignsAndTrims) {
  Table table({{"name"}, {"bytes", Align::kRight}, {"note"}});
  table.AddRow({"a", "1", ""});
  table.AddRow({"layers", "12,345", "x"});
  table.AddRule();
  table.AddRow({"sum", "12,346"});
  EXPECT_EQ(table.Render(),
            "name     bytes  note\n"
            "------  ------  ----\n"
            "a            1\n"
            "layers  12,345  x\n"
            "------  ------  ----\n"
            "sum     12,346\n");
}

TEST(Table, WidthOfUnicode) {
  EXPECT_EQ(DisplayWidth("abc"), 3);
  EXPECT_EQ(DisplayWidth("é"), 1);
  EXPECT_EQ(DisplayWidth("e\xCC\x81"), 1);  // e + combining acute
  EXPECT_EQ(DisplayWidth("日本"), 4);
  EXPECT_EQ(DisplayWidth("🙂"), 2);
  EXPECT_EQ(DisplayWidth("\xF0\x9F"), DisplayWidth("\xF0\x9F"));  // cut short: no read past the end
}

TEST(Printable, EscapesControlsAndBadUtf8) {
  EXPECT_EQ(Printable("plain é 日"), "plain é 日");
  EXPECT_EQ(Printable("a\x1b[31mb\n"), "a\\x1b[31mb\\x0a");
  EXPECT_EQ(Printable("a\tb\n\x07", "\t\n"), "a\tb\n\\x07");
  EXPECT_EQ(Printable("\x7f"), "\\x7f");
  EXPECT_EQ(Printable("\xC2\x9B"
                      "31m"),
            "\\x9b31m");                                    // C1: a one-character CSI
  EXPECT_EQ(Printable("\xC0\xAF"), "\\xc0\\xaf");           // overlong
  EXPECT_EQ(Printable("\xED\xA0\x80"), "\\xed\\xa0\\x80");  // surrogate
  EXPECT_EQ(Printable("ok\xE2\x82"), "ok\\xe2\\x82");       // cut short
}

TEST(IsUtf8, AcceptsOnlyUtf8) {
  EXPECT_TRUE(IsUtf8(""));
  EXPECT_TRUE(IsUtf8("aé日🙂\n"));
  for (const char* bad : {"\xff", "a\xC3", "\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"})
    EXPECT_FALSE(IsUtf8(bad)) << bad;
}

}  // namespace
}  // namespace optiq
