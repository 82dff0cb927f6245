// Command maascert keeps the TLS certificate of a MAAS deployment alive.
package main

import "maascert/internal/command"

func main() { command.Main() }
