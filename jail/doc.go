// Package jail makes, opens, repairs and removes jails, and runs programs in
// them. It knows the order in which things happen; the terminal is the
// business of cmd, and the bytes of a forward that of relay.
//
// A jail is a network namespace whose only way out is a WireGuard tunnel:
//
//	        host                                 │ jail NAME
//	                                             │
//	/run/netns/NAME ── names ────────────────────┤ lo, own sysctls
//	UDP socket ◄═ encrypted ═ WireGuard ═ clear ═╪═ interface NAME ── routes
//	keeper (tunnel, watch)                       │ nftables table "wgjail"
//	forward processes ── relay workers ──────────┤ sockets towards services
//	/etc/netns/NAME/{resolv,nsswitch}.conf ── mounted for programs inside
//
// Everything about a jail is found by its name. What wgjail made is written
// down in /run/wgjail/NAME before it is made, so that Down can remove it
// whenever the making was interrupted:
//
//	/run/wgjail/.NAME.lock     held by the command that changes the jail
//	/run/wgjail/.made          folders and mounts that were not there before
//	/run/wgjail/NAME/jail.json what the jail is; no secrets
//	/run/wgjail/NAME/keeper    held and filled by the keeper
//	/run/wgjail/NAME/keeper.log
//	/run/wgjail/NAME/forwards/ one record, held by its process, per forward
//
// "Held" means flock(2): a lock is free when its holder is gone, however it
// went, so nothing here ever has to be believed about a dead process.
package jail
