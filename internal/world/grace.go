package world

import (
	"context"
	"sync/atomic"
	"time"
)

// Grace is the moment for which what must not be given up goes on after its context ended, such as writing down what has
// happened. All that shares a Grace has that moment together, however many steps it takes. The zero value is ready, and it is
// safe for concurrent use.
type Grace struct {
	ended atomic.Int64 // when a context ended, in nanoseconds since 1970; 0 while none has
}

// graceTime is how long that moment is: a program that is told to end has a second.
const graceTime = 500 * time.Millisecond

// Watch has the moment begin when a context ends, and not only when the next step sees it.
func (g *Grace) Watch(ctx context.Context) { context.AfterFunc(ctx, g.begin) }

// Context ends when the moment after its parent's end is over, and after so long at the most.
func (g *Grace) Context(parent context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), most)
	stop := context.AfterFunc(parent, func() {
		g.begin()
		timer := time.AfterFunc(graceTime-time.Since(time.Unix(0, g.ended.Load())), cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	return ctx, func() {
		stop()
		cancel()
	}
}

func (g *Grace) begin() { g.ended.CompareAndSwap(0, time.Now().UnixNano()) }
