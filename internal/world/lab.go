package world

// Addresses of the lab.
const (
	InternetV4 = "203.0.113.7"   // somewhere on the internet
	InternetV6 = "2001:db8:7::7" // the same, over IPv6
)
