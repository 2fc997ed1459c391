#include "quant/report_html.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <set>

#include "quant/escape.h"
#include "quant/report_charts.h"
#include "quant/test_summary.h"

namespace optiq {
namespace {

bool Has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

size_t Count(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// Checks that tags nest, attributes are quoted and ids unique. Returns the tag names met.
std::multiset<std::string> CheckWellFormed(const std::string& html) {
  const std::set<std::string> empty = {"meta", "input", "br"};
  std::multiset<std::string> tags;
  std::set<std::string> ids;
  std::vector<std::string> open;
  for (size_t i = 0; i < html.size(); ++i) {
    if (html[i] != '<') continue;
    if (html.compare(i, 2, "<!") == 0) {
      i = html.find('>', i);
      continue;
    }
    bool closing = html[i + 1] == '/';
    size_t p = i + 1 + closing;
    std::string name;
    while (p < html.size() && std::isalnum(static_cast<unsigned char>(html[p]))) name += html[p++];
    EXPECT_FALSE(name.empty()) << "stray '<' at " << html.substr(i, 40);
    bool self_closing = false;
    while (p < html.size() && html[p] != '>') {  // attributes
      if (std::isspace(static_cast<unsigned char>(html[p]))) {
        ++p;
        continue;
      }
      if (html[p] == '/') {
        self_closing = true;
        ++p;
        continue;
      }
      std::string attribute;
      while (p < html.size() && (std::isalnum(static_cast<unsigned char>(html[p])) || html[p] == '-'))
        attribute += html[p++];
      EXPECT_FALSE(attribute.empty()) << "bad attribute in " << html.substr(i, 80);
      if (attribute.empty()) return tags;
      EXPECT_FALSE(attribute.starts_with("on")) << "event handler in " << html.substr(i, 80);
      if (html[p] != '=') continue;
      EXPECT_EQ(html[p + 1], '"');
      size_t end = html.find('"', p + 2);
      std::string value = html.substr(p + 2, end - p - 2);
      EXPECT_FALSE(Has(value, "<")) << value;
      bool fresh = attribute != "id" || ids.insert(value).second;
      EXPECT_TRUE(fresh) << "id twice: " << value;
      EXPECT_TRUE(attribute != "src" && attribute != "href") << value;
      p = end + 1;
    }
    if (closing) {
      EXPECT_FALSE(open.empty());
      if (open.empty()) return tags;
      EXPECT_EQ(open.back(), name);
      open.pop_back();
    } else {
      tags.insert(name);
      if (name == "script" || name == "style") {
        p = html.find("</" + name + ">", p) - 1;
        open.push_back(name);
      } else if (!self_closing && !empty.contains(name)) {
        open.push_back(name);
      }
    }
    i = p;
  }
  EXPECT_TRUE(open.empty()) << open.back();
  return tags;
}

TEST(ReportHtml, IsWellFormedAndComplete) {
  ConvertSummary s = ExampleSummary();
  std::string html = ReportHtml(s);
  std::multiset<std::string> tags = CheckWellFormed(html);
  EXPECT_EQ(tags.count("script"), 1u);
  for (const SensitivityItem& item : s.table.items) {
    EXPECT_TRUE(Has(html, "<td class=\"path\">" + item.path + "</td>")) << item.path;
  }
  for (const char* heading :
       {"Measured on held-out text", "Where the model is sensitive", "Bits chosen", "The most sensitive weights",
        "Size against quality", "How it was made", "All 211 weights"}) {
    EXPECT_TRUE(Has(html, heading)) << heading;
  }
  EXPECT_EQ(Count(html, "<li><span class=\"path\" title="), 20u);
  EXPECT_TRUE(Has(html, "0.1512 ± 0.0030"));
  // One cell per weight of a layer in each of the two maps.
  EXPECT_EQ(Count(html, "<rect x="), 2u * 210 + 6 + 1);
  EXPECT_FALSE(Has(html, "nan"));
}

TEST(ReportHtml, AsksNothingOfAnyServer) {
  std::string html = ReportHtml(ExampleSummary());
  for (const char* part : {"http://", "https://", "src=", "href=", "url(", "@import", "fetch(", "//cdn"}) {
    EXPECT_FALSE(Has(html, part)) << part;
  }
  EXPECT_TRUE(Has(html, "default-src 'none'"));
}

TEST(ReportHtml, PicturesHaveTitlesAndDescriptions) {
  std::string html = ReportHtml(ExampleSummary());
  EXPECT_EQ(Count(html, "role=\"img\""), 3u);
  EXPECT_EQ(Count(html, "<desc id="), 3u);
  EXPECT_EQ(Count(html, "aria-labelledby="), 3u);
  EXPECT_TRUE(Has(html, "prefers-color-scheme: dark"));
}

TEST(ReportHtml, HostileStringsAreEscaped) {
  ConvertSummary s = HostileSummary();
  std::string html = ReportHtml(s);
  std::multiset<std::string> tags = CheckWellFormed(html);
  EXPECT_EQ(tags.count("img"), 0u);
  EXPECT_EQ(tags.count("script"), 1u);
  EXPECT_FALSE(Has(html, "\xFF"));
  for (const SensitivityItem& item : s.table.items) EXPECT_TRUE(Has(html, EscapeHtml(item.path)));
}

TEST(ReportHtml, PartsWithoutDataAreLeftOut) {
  ConvertSummary s;
  s.plan.origin = "uniform 4-bit g64";
  for (int layer = 0; layer < 3; ++layer) s.plan.entries[fmt::format("model.layers.{}.mlp.up_proj", layer)] = {};
  std::string html = ReportHtml(s);
  CheckWellFormed(html);
  EXPECT_FALSE(Has(html, "Where the model is sensitive"));
  EXPECT_FALSE(Has(html, "<h2>Size against quality"));
  EXPECT_FALSE(Has(html, "<h2>Measured"));
  EXPECT_TRUE(Has(html, "<h2>Bits chosen"));
  CheckWellFormed(ReportHtml({}));
}

TEST(ReportHtml, ZeroAndOddMeasurements) {
  ConvertSummary s = ExampleSummary(4.5, 2);
  for (SensitivityItem& item : s.table.items) {
    for (SensitivityOption& o : item.options) o.kl = 0;
  }
  CheckWellFormed(ReportHtml(s));
  s = ExampleSummary(4.5, 2);
  s.evaluation[0].kl_mean = std::nan("");
  s.evaluation[0].perplexity = HUGE_VAL;
  CheckWellFormed(ReportHtml(s));
}

TEST(ReportHtml, LargeModel) {
  std::string html = ReportHtml(ExampleSummary(4.0, 100));
  CheckWellFormed(html);
  EXPECT_TRUE(Has(html, "All 701 weights"));
  EXPECT_LT(html.size(), 2u << 20);
}

TEST(SensitivityScale, StepsAreLogarithmic) {
  std::vector<SummaryItem> items(3);
  items[0].sensitivity = 1e-4;
  items[1].sensitivity = 1e-2;
  items[2].sensitivity = -1;
  SensitivityScale scale = MakeSensitivityScale(items);
  EXPECT_EQ(scale.Step(1e-4), 0);
  EXPECT_EQ(scale.Step(1.01e-3), 5);
  EXPECT_EQ(scale.Step(1e-2), 9);
  EXPECT_EQ(scale.Step(0), -1);
  EXPECT_EQ(scale.Step(-1), -1);
  EXPECT_EQ(SensitivityScale{}.Step(1), -1);
}

}  // namespace
}  // namespace optiq
