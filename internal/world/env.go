package world

import "os"

// Setenv sets variables of the process's environment and returns what puts them back as they were. It is for libraries
// that take their settings from nowhere else, and as every change of the environment it is everybody's: callers take
// turns.
func Setenv(wanted map[string]string) (restore func(), err error) {
	before := map[string]*string{}
	restore = func() {
		for name, old := range before {
			// These names and values were accepted a moment ago.
			if old == nil {
				_ = os.Unsetenv(name)
			} else {
				_ = os.Setenv(name, *old)
			}
		}
	}
	for name, value := range wanted {
		before[name] = nil
		if old, ok := os.LookupEnv(name); ok {
			before[name] = &old
		}
		if err := os.Setenv(name, value); err != nil {
			restore()
			return nil, err
		}
	}
	return restore, nil
}
