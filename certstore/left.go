package certstore

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Left is how much of a certificate's lifetime is left at some moment: a share of it or a time. The zero value is nothing.
type Left struct {
	share float64
	time  time.Duration
}

// ParseLeft reads one, "20%" or "240h" for example.
func ParseLeft(text string) (Left, error) {
	wrong := fmt.Errorf("%q is no share or time of the lifetime; write 20%% or 240h", text)
	if number, isShare := strings.CutSuffix(text, "%"); isShare {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || !(percent >= 0 && percent <= 100) {
			return Left{}, wrong
		}
		return Left{share: percent / 100}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return Left{}, wrong
	}
	return Left{time: d}, nil
}

// IsZero tells whether it is nothing.
func (l Left) IsZero() bool { return l == Left{} }

// Share is the share of any lifetime; 0 where a time is meant.
func (l Left) Share() float64 { return l.share }

// Of is the time that it is of a lifetime.
func (l Left) Of(lifetime time.Duration) time.Duration {
	return l.time + time.Duration(l.share*float64(lifetime))
}
