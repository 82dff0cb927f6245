// Package similar finds what somebody may have meant who mistyped a word.
package similar

import "strings"

// far is how many letters may be wrong.
const far = 2

// To are the words, of some, that differ from another one by a slip or that it is the beginning of; the closest first, and none where the
// word is one of them.
func To(word string, words []string) []string {
	word = strings.ToLower(word)
	byDistance := make([][]string, far+1)
	for _, other := range words {
		distance := Distance(word, other)
		if distance > 0 && len(word) > 1 && strings.HasPrefix(other, word) {
			distance = min(distance, far)
		}
		if distance == 0 {
			return nil
		}
		if distance <= far && distance < len(word) {
			byDistance[distance] = append(byDistance[distance], other)
		}
	}
	var all []string
	for _, some := range byDistance {
		all = append(all, some...)
	}
	return all
}

// Distance is how many letters have to be put in, taken out or exchanged to make one word of another (Levenshtein).
func Distance(a, b string) int {
	before := make([]int, len(b)+1)
	for j := range before {
		before[j] = j
	}
	for i := range len(a) {
		now := make([]int, len(b)+1)
		now[0] = i + 1
		for j := range len(b) {
			exchange := 1
			if a[i] == b[j] {
				exchange = 0
			}
			now[j+1] = min(now[j]+1, before[j+1]+1, before[j]+exchange)
		}
		before = now
	}
	return before[len(b)]
}
