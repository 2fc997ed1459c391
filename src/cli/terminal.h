// What the standard streams are connected to.
#ifndef OPTIQ_CLI_TERMINAL_H_
#define OPTIQ_CLI_TERMINAL_H_

#include <string>
#include <string_view>

#include "base/utf8.h"

namespace optiq {

bool IsTerminal(int fd);

// A terminal that understands escape sequences and whose user did not opt out: TERM is set and not "dumb", NO_COLOR is
// unset or empty (no-color.org; here it also turns off the moving progress bar).
bool EscapesAllowed(int fd);

// Columns of the terminal, 80 when unknown.
int TerminalWidth(int fd);


// The text with control characters (C0 but those in `keep`, DEL, C1) written as \xNN, so that a name out of a model
// file or a generated text cannot drive the terminal or forge a second line. Invalid UTF-8 bytes are written as \xNN
// too.
std::string Printable(std::string_view text, std::string_view keep = "");

// Sets SIGPIPE to its default (a reader that goes away ends the program quietly) and makes sure that descriptors 0, 1
// and 2 are open, so that no model file ever takes the place of a closed standard stream.
void PrepareStandardStreams();

}  // namespace optiq

#endif  // OPTIQ_CLI_TERMINAL_H_
