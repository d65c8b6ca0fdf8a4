package auth

import (
	"regexp"
	"testing"
)

func TestNewSecretsAreWordsToEveryProgram(t *testing.T) {
	word := regexp.MustCompile(`^[a-z2-7]{52}$`)
	for range 100 {
		secret, _, err := newSecret()
		if err != nil {
			t.Fatal(err)
		}
		if !word.MatchString(secret) {
			t.Fatalf("secret %q: want 256 bits in letters and digits", secret)
		}
	}
}
