package world

import "crypto/rand"

// Canary returns 16 bytes that occur nowhere else: letters and digits, so that
// they can travel in names and URLs as well.
func Canary() []byte { return []byte(rand.Text()[:16]) }
