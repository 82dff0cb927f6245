package certstore

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A field that is not known is found wherever it stands among the others, and whatever the values before it look like; what is inside a value
// is no field of the object.
func TestFieldsThatAreNotKnownAreFound(t *testing.T) {
	t.Parallel()
	names := map[string]bool{"v": true, "order": true, "attempts": true}
	for text, want := range map[string]bool{
		`{}`:       false,
		`{"v": 1}`: false,
		`{"v":1,"order":{"later":1,"v":[{"later":{}}]},"attempts":[{"later":2},"later"]}`: false,
		`{"v": "later", "order": "}, \"later\": {", "attempts": "\\"}`:                    false,
		`{"v":1,"later":null}`: true,
		`{"later":1}`:          true,
		`{"order":{"a":{}},"v":[[],{}],"later":[]}`:              true,
		`{"v": "\\\"", "later": 1}`:                              true,
		`{"attempts": ["}", "]", "\\"], "order" : {} ,"l" : {}}`: true,
		`{"\u0076": 1}`: true, // v, which costs a closer look
		`null`:          false,
	} {
		require.Equal(t, want, hasOthers([]byte(text), names), text)
	}
}

// What a name with escapes stands for is known all the same.
func TestANameWithEscapesIsKnown(t *testing.T) {
	t.Parallel()
	var attempt Attempt
	require.NoError(t, attempt.UnmarshalJSON([]byte(`{"nod\u0065": "region1", "l\u0061ter": 1}`)))
	require.Equal(t, "region1", attempt.Node)
	require.Len(t, attempt.fields, 1)
	require.Contains(t, attempt.fields, "later")
}
