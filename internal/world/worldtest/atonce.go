//go:build !race

package worldtest

import "time"

// AtOnce is within how long something that is told to end has ended: a program that is told to end has a second.
const AtOnce = time.Second
