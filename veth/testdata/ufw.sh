# What ufw 0.36 sets when it is enabled, as far as forwarding and input go.
set -e
for t in iptables ip6tables; do
	$t -P INPUT DROP
	$t -P FORWARD DROP
	for c in ufw-before-input ufw-before-forward ufw-user-forward ufw-reject-forward ufw-user-input; do $t -N $c; done
	$t -A INPUT -j ufw-before-input
	$t -A FORWARD -j ufw-before-forward
	$t -A FORWARD -j ufw-reject-forward
	$t -A ufw-before-input -i lo -j ACCEPT
	$t -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$t -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
	$t -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$t -A ufw-before-forward -j ufw-user-forward
done
ip6tables -A ufw-before-input -p icmpv6 -j ACCEPT
