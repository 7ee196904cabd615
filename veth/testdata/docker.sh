# What dockerd 20.10 leaves in iptables when it switched forwarding on itself.
set -e
for t in iptables ip6tables; do
	$t -P FORWARD DROP
	for c in DOCKER DOCKER-USER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2; do $t -N $c; done
	$t -A DOCKER-USER -j RETURN
	$t -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
	$t -A DOCKER-ISOLATION-STAGE-1 -j RETURN
	$t -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
	$t -A DOCKER-ISOLATION-STAGE-2 -j RETURN
	$t -A FORWARD -j DOCKER-USER
	$t -A FORWARD -j DOCKER-ISOLATION-STAGE-1
	$t -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$t -A FORWARD -o docker0 -j DOCKER
	$t -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
	$t -A FORWARD -i docker0 -o docker0 -j ACCEPT
	$t -t nat -N DOCKER
	$t -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
	$t -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
	$t -t nat -A DOCKER -i docker0 -j RETURN
done
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
sysctl -qw net.ipv4.ip_forward=1
