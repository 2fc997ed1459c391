// Reads a tool call's JSON as it comes and lets its arguments out piece by piece.
#ifndef OPTIQ_SERVER_ARGUMENT_STREAM_H_
#define OPTIQ_SERVER_ARGUMENT_STREAM_H_

#include <string>

namespace optiq {

// {"name": .., "arguments" | "parameters": {..}}. The arguments come out only when the name has come before them and they are an object; the
// text is the model's, without the blanks between its tokens. Nothing is checked: whoever reads a stream has the arguments before anyone
// can know whether they end well.
class ArgumentStream {
 public:
  void Push(char c);
  // The name stands elsewhere; the next character opens the arguments.
  void Begin(std::string name);

  // The arguments have begun: the name is final.
  bool begun() const { return begun_; }
  const std::string& name() const { return name_; }
  // What came since the last call.
  std::string Take();

 private:
  void PushArguments(char c);
  // True while c belongs to a string.
  bool InString(char c);

  std::string name_, key_, string_, pieces_;
  int depth_ = 0;
  bool in_string_ = false, escaped_ = false, expect_key_ = false, begun_ = false, ended_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_ARGUMENT_STREAM_H_
