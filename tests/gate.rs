//! The gate's programs in the real kernel, on real frames. Needs root.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use dre::config::Vip;
use dre::logic::time::Moment;
use dre::shell::bpf::test_run;
use dre::shell::clock;
use dre::shell::gate::{Gate, Way};
use dre::shell::netlink::{Hook, Kernel, Mark};

const VIP4: [u8; 4] = [172, 16, 9, 61];
const OTHER4: [u8; 4] = [172, 16, 9, 100];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x61];
const OTHER6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

const PASS: u32 = u32::MAX;
const DROP: u32 = 2;

fn ethernet(kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&[2; 6][..], &[4; 6], &kind, payload].concat();
    frame.resize(frame.len().max(64), 0);
    frame
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    ethernet([8, 6], &[&head[..], &[4; 6], &sender, &[0; 6], &target].concat())
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let head = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    ethernet([8, 0], &[&head[..], &source, &destination, &[0; 20]].concat())
}

fn ipv6(next: u8, source: [u8; 16], destination: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let head = [0x60, 0, 0, 0, 0, 24, next, 255];
    ethernet([0x86, 0xdd], &[&head[..], &source, &destination, payload].concat())
}

fn nd(kind: u8, source: [u8; 16], destination: [u8; 16], target: [u8; 16]) -> Vec<u8> {
    ipv6(58, source, destination, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat())
}

fn gate() -> Gate {
    let gate = Gate::load().expect("the kernel takes the gate (root, Linux 5.8 or later)");
    gate.guard(IpAddr::from(VIP4)).expect("guarded");
    gate.guard(IpAddr::from(VIP6)).expect("guarded");
    gate
}

/// (what, frame, dropped on the way in when shut, dropped on the way out when shut)
fn frames() -> Vec<(&'static str, Vec<u8>, bool, bool)> {
    vec![
        ("ARP request for the VIP", arp(1, OTHER4, VIP4), true, false),
        // Another's probes and announcements are for dre-vip to see.
        ("ARP probe for the VIP", arp(1, [0; 4], VIP4), false, false),
        ("ARP reply from the VIP", arp(2, VIP4, OTHER4), false, true),
        ("ARP request from the VIP", arp(1, VIP4, OTHER4), false, true),
        ("gratuitous ARP of the VIP", arp(1, VIP4, VIP4), false, true),
        ("ARP between others", arp(1, OTHER4, OTHER4), false, false),
        ("IPv4 to the VIP", ipv4(OTHER4, VIP4), true, false),
        ("IPv4 from the VIP", ipv4(VIP4, OTHER4), false, true),
        ("IPv4 between others", ipv4(OTHER4, OTHER4), false, false),
        ("IPv6 to the VIP", ipv6(6, OTHER6, VIP6, &[0; 24]), true, false),
        ("IPv6 from the VIP", ipv6(6, VIP6, OTHER6, &[0; 24]), false, true),
        ("IPv6 between others", ipv6(6, OTHER6, OTHER6, &[0; 24]), false, false),
        ("solicitation for the VIP", nd(135, OTHER6, ALL_NODES, VIP6), true, false),
        ("probe (DAD form) for the VIP", nd(135, [0; 16], ALL_NODES, VIP6), false, false),
        ("a probe sent to the VIP itself", nd(135, [0; 16], VIP6, VIP6), true, false),
        ("advertisement of the VIP", nd(136, OTHER6, ALL_NODES, VIP6), false, true),
        ("advertisement of another", nd(136, OTHER6, ALL_NODES, OTHER6), false, false),
        ("a frame cut short", ethernet([8, 6], &[0; 4])[..20].to_vec(), false, false),
        ("another protocol", ethernet([0x88, 0xcc], &[0; 50]), false, false),
    ]
}

#[test]
fn what_carries_a_vip_passes_only_before_the_deadline() {
    let gate = gate();
    for (deadline, open) in [(Moment::ZERO, false), (clock::now() + Duration::from_secs(60), true)] {
        gate.until(deadline);
        for (what, frame, drops_in, drops_out) in frames() {
            for (way, drops) in [(Way::In, drops_in), (Way::Out, drops_out)] {
                let verdict = test_run(gate.program(way), &frame).expect("test run");
                let expected = if drops && !open { DROP } else { PASS };
                assert_eq!(verdict, expected, "{what}, way {way:?}, gate open: {open}");
            }
        }
    }
}

#[test]
fn the_gate_shuts_by_itself_and_a_late_store_does_not_open_it() {
    let gate = gate();
    let frame = ipv4(OTHER4, VIP4);
    let verdict = || test_run(gate.program(Way::In), &frame).expect("test run");
    let deadline = clock::now() + Duration::from_millis(30);
    gate.until(deadline);
    let mut passed = 0;
    loop {
        let before = clock::now();
        let verdict = verdict();
        let after = clock::now();
        if after < deadline {
            assert_eq!(verdict, PASS, "{:?} before the deadline", after.until(deadline));
            passed += 1;
        } else if before >= deadline {
            assert_eq!(verdict, DROP, "{:?} after the deadline", before.since(deadline));
            break;
        }
    }
    assert!(passed > 0, "never seen open");
    gate.until(deadline);
    assert_eq!(verdict(), DROP, "a store that comes late opened the gate");
}

#[test]
fn a_vip_that_left_the_configuration_is_no_longer_guarded() {
    let gate = gate();
    let frame = ipv4(OTHER4, VIP4);
    assert_eq!(test_run(gate.program(Way::In), &frame).expect("test run"), DROP);
    gate.release(IpAddr::from(VIP4)).expect("released");
    assert_eq!(test_run(gate.program(Way::In), &frame).expect("test run"), PASS);
}

/// What renewing costs: reported, never judged.
#[test]
fn a_renewal_is_one_store() {
    let gate = gate();
    let begun = clock::now();
    for n in 0..1_000_000_u64 {
        gate.until(Moment::from_nanos(n));
    }
    println!("renewal: {:.1} ns", clock::now().since(begun).as_nanos() as f64 / 1e6);
    assert_eq!(gate.deadline(), Moment::from_nanos(999_999));
}

/// Two groups on one interface: both gates stand before it, each drops its own VIPs, and who goes takes only his own.
#[test]
fn two_groups_gates_stand_side_by_side() {
    let own_network = || {
        // SAFETY: this thread alone moves to a new network namespace; what it starts goes with it.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "root?");
        let run = |line: &str| {
            let mut words = line.split(' ');
            let done = Command::new(words.next().expect("a program")).args(words).output().expect("runs");
            assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        run("ip link add d0 type veth peer name d1");
        run("ip link set d0 up");
        run("ip link set d1 up");
        run("ip addr add 172.16.9.54/24 dev d0");
        let index = nix::net::if_::if_nametoindex("d0").expect("is there");
        let (one, two) = (gate(), gate());
        let (mut dre, mut mysql) = (
            Kernel::new(Mark::of("dre")).expect("netlink"),
            Kernel::new(Mark::of("mysql")).expect("netlink"),
        );
        assert_eq!(dre.hook(index, &one.programs()).expect("hooked"), Hook::PutBack);
        assert_eq!(mysql.hook(index, &two.programs()).expect("hooked"), Hook::PutBack);
        assert_eq!(dre.hook(index, &one.programs()).expect("hooked"), Hook::There, "taken off by the other");
        for way in ["ingress", "egress"] {
            let filters = run(&format!("tc filter show dev d0 {way}"));
            assert!(filters.contains("dre-gate ") && filters.contains("dre-gate@mysql "), "{filters}");
        }
        // The same arbitrator, the same way: a route each.
        let to: IpAddr = "172.16.9.250".parse().expect("an address");
        for kernel in [&mut dre, &mut mysql] {
            kernel.host_route(to, index, true).expect("set");
            kernel.host_route(to, index, true).expect("again is no error");
            assert_eq!(kernel.tagged_routes().expect("listed"), [(to, index)]);
        }
        let vip = |address: &str, label: Option<&str>| Vip {
            address: address.parse().expect("an address"),
            interface: "d0".into(),
            label: label.map(str::to_owned),
            broadcast: None,
        };
        dre.add_vip(&vip("172.16.9.61/24", None), index, None).expect("set");
        mysql.add_vip(&vip("172.16.9.62/24", Some("d0:0")), index, None).expect("set");
        mysql.add_vip(&vip("2001:db8:9::62/64", None), index, None).expect("set");
        let ours = |kernel: &mut Kernel| -> Vec<String> {
            let all = kernel.addresses().expect("listed");
            all.iter().filter(|a| a.ours).map(|a| a.address.to_string()).collect()
        };
        assert_eq!(ours(&mut dre), ["172.16.9.61"]);
        assert_eq!(ours(&mut mysql), ["172.16.9.62", "2001:db8:9::62"]);

        assert!(mysql.unhook(index).expect("off"), "nothing was there");
        assert_eq!(dre.hook(index, &one.programs()).expect("hooked"), Hook::There, "taken off by the other");
        mysql.host_route(to, index, false).expect("gone");
        mysql.host_route(to, index, false).expect("twice is no error");
        assert!(mysql.tagged_routes().expect("listed").is_empty());
        assert_eq!(dre.tagged_routes().expect("listed"), [(to, index)]);
        dre.host_route(to, index, false).expect("gone");
        assert_eq!(run("ip route show 172.16.9.250"), "");
        // Without its own, group dre takes away nobody's.
        mysql.host_route(to, index, true).expect("set");
        dre.host_route(to, index, false).expect("no error");
        assert_eq!(mysql.tagged_routes().expect("listed"), [(to, index)]);
    };
    std::thread::spawn(own_network).join().expect("no panic");
}

/// In a network of its own: the programs are put on, and put back whatever takes them off; nothing else counts as the gate.
#[test]
fn the_programs_are_put_back_and_a_wrong_place_is_no_gate() {
    let own_network = || {
        // SAFETY: this thread alone moves to a new network namespace; what it starts goes with it.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "root?");
        let run = |line: &str| {
            let mut words = line.split(' ');
            let done = Command::new(words.next().expect("a program")).args(words).status();
            assert!(done.expect("runs").success(), "{line}");
        };
        run("ip link add d0 type veth peer name d1");
        run("ip link set d0 up");
        let index = nix::net::if_::if_nametoindex("d0").expect("is there");
        let mut kernel = Kernel::new(Mark::of("dre")).expect("netlink");
        let earlier = gate();
        assert_eq!(kernel.hook(index, &earlier.programs()).expect("hooked"), Hook::PutBack);
        let gate = gate();
        let programs = gate.programs();
        let mut hook = |why: &str, expected: Hook| {
            assert_eq!(kernel.hook(index, &programs).expect(why), expected, "{why}");
            assert_eq!(kernel.hook(index, &programs).expect(why), Hook::There, "{why}: and again");
        };
        hook("an earlier process left its own", Hook::PutBack);
        run("tc qdisc del dev d0 clsact");
        hook("the discipline is gone", Hook::PutBack);
        run("tc filter del dev d0 egress");
        hook("one way is gone", Hook::PutBack);
        run("tc qdisc add dev d0 root pfifo");
        run("tc qdisc del dev d0 root");
        hook("another's discipline went", Hook::There);

        run("tc qdisc del dev d0 clsact");
        run("tc qdisc add dev d0 ingress");
        let error = kernel.hook(index, &programs).expect_err("an ingress discipline has no way out");
        assert!(error.to_string().contains("clsact"), "{error}");
        run("tc qdisc del dev d0 ingress");
        assert_eq!(kernel.hook(index, &programs).expect("hooked"), Hook::PutBack);

        assert!(kernel.unhook(index).expect("off"), "nothing was there");
        assert!(!kernel.unhook(index).expect("off"), "something was left");
    };
    std::thread::spawn(own_network).join().expect("no panic");
}
