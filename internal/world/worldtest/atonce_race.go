//go:build race

package worldtest

import "time"

// AtOnce is within how long something that is told to end has ended. The race detector makes programs several times slower, most of all beside
// others; how long it takes without it is measured without it.
const AtOnce = 5 * time.Second
