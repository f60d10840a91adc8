//! The gate: VIP traffic passes a service interface only before a deadline on the kernel's boot clock.
//!
//! Two small programs at tc's clsact hook, one on the way in, one on the way out:
//!
//! ```text
//!             way in                                way out
//!  ARP        question for a VIP                    sender address is a VIP
//!  IPv4/IPv6  destination is a VIP                  source is a VIP
//!  ND         question for a VIP                    advertisement of a VIP
//!                 └── boot clock < deadline? pass : drop ──┘          anything else: pass
//! ```
//!
//! Both directions, because a frozen node's kernel still retransmits, and asks by ARP with the VIP as sender,
//! which would poison caches. The other two combinations pass, so that this node reaches a VIP its peer
//! holds, and so that probes (sender 0.0.0.0 or ::) go out while the gate is shut.
//!
//! Another's probes and announcements (sender and target the same) come in too, or dre-vip could not see them: a packet socket
//! hears what the way in lets through. Two nodes that probe at once must know of each other, and whatever a kernel that
//! still has the address says to them does not get out.
//!
//! Renewed by one store of an absolute deadline into a mapped array. All processes frozen, killed or starved: the
//! kernel falls silent at the deadline by itself. A store that comes late, after a freeze, stores a moment
//! that has passed: no relative timeout can say that.
//!
//! At clsact, not at TCX: that came with Linux 6.6, and a TCX link goes with the process that made it, while these programs must
//! stay, shut, when dre-vip dies. clsact and bpf classifiers may be modules of the kernel (`config/50-dre-modules.conf`).
//!
//! The instructions are written here, not compiled: about fifty of them need no compiler on anybody's machine, and the
//! kernel's verifier and the tests below read them anyway. Kernel ≥ 5.8 (bpf_ktime_get_boot_ns).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::bpf::{Instruction, PrefixMap, SharedWord, load_classifier, program_id};
use crate::logic::time::Moment;

/// More VIPs than anybody has asked for; the maps allocate as they are filled.
const VIPS_MAX: u32 = 1 << 20;

/// Which way a program looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// One program, and the kernel's number for it.
struct Program {
    fd: OwnedFd,
    id: u32,
}

/// Both programs of a gate, to be attached by [`super::netlink`].
pub struct Programs {
    way_in: Program,
    way_out: Program,
}

impl Programs {
    fn of(&self, way: Way) -> &Program {
        match way {
            Way::In => &self.way_in,
            Way::Out => &self.way_out,
        }
    }

    pub fn fd(&self, way: Way) -> &OwnedFd {
        &self.of(way).fd
    }

    /// What a hook shows that runs it.
    pub fn id(&self, way: Way) -> u32 {
        self.of(way).id
    }
}

/// The maps and programs of one group.
pub struct Gate {
    deadline: SharedWord,
    v4: PrefixMap,
    v6: PrefixMap,
    programs: Arc<Programs>,
}

impl Gate {
    /// Loads the programs; the gate is shut. An error means that this kernel, or this process's
    /// capabilities (CAP_BPF, CAP_NET_ADMIN), refuse BPF.
    pub fn load() -> io::Result<Self> {
        let deadline = SharedWord::new("dre_deadline")?;
        let v4 = PrefixMap::new("dre_vips4", 4, VIPS_MAX)?;
        let v6 = PrefixMap::new("dre_vips6", 16, VIPS_MAX)?;
        let program = |way, name| {
            let code = instructions(way, deadline.fd(), v4.fd(), v6.fd());
            let fd = load_classifier(name, &code)?;
            let id = program_id(&fd)?;
            io::Result::Ok(Program { fd, id })
        };
        let way_in = program(Way::In, "dre_gate_in")?;
        let way_out = program(Way::Out, "dre_gate_out")?;
        Ok(Self { deadline, v4, v6, programs: Arc::new(Programs { way_in, way_out }) })
    }

    pub fn guard(&self, vip: IpAddr) -> io::Result<()> {
        match vip {
            IpAddr::V4(a) => self.v4.insert(32, &a.octets()),
            IpAddr::V6(a) => self.v6.insert(128, &a.octets()),
        }
    }

    /// The VIP left the configuration, and its address this node.
    pub fn release(&self, vip: IpAddr) -> io::Result<()> {
        match vip {
            IpAddr::V4(a) => self.v4.remove(32, &a.octets()),
            IpAddr::V6(a) => self.v6.remove(128, &a.octets()),
        }
    }

    /// Traffic passes until this moment; [`Moment::ZERO`] shuts.
    pub fn until(&self, deadline: Moment) {
        self.deadline.store(deadline.as_nanos());
    }

    pub fn deadline(&self) -> Moment {
        Moment::from_nanos(self.deadline.load())
    }

    pub fn program(&self, way: Way) -> &OwnedFd {
        self.programs.fd(way)
    }

    /// For the thread that attaches them.
    pub fn programs(&self) -> Arc<Programs> {
        Arc::clone(&self.programs)
    }
}

/// May this process use BPF here? Loads the gate and lets it go.
pub fn available() -> io::Result<()> {
    Gate::load().map(drop)
}

// ---- the program -----------------------------------------------------------------------------------------

/// Continue with the next classifier: the gate has no opinion on what others decide.
const PASS: i32 = -1;
/// TC_ACT_SHOT.
const DROP: i32 = 2;

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R6: u8 = 6;
const R7: u8 = 7;
const R10: u8 = 10;

const MAP_LOOKUP: i32 = 1;
const SKB_LOAD_BYTES: i32 = 26;
const KTIME_GET_BOOT_NS: i32 = 125;

/// `__sk_buff.protocol`.
const SKB_PROTOCOL: i16 = 16;

/// An assembler with labels, as small as this program needs.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, &'static str)>,
    labels: Vec<(&'static str, usize)>,
}

impl Assembler {
    fn push(&mut self, code: u8, dst: u8, src: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: dst | src << 4, offset, immediate });
    }
    fn label(&mut self, name: &'static str) {
        self.labels.push((name, self.code.len()));
    }
    fn set(&mut self, dst: u8, value: i32) {
        self.push(0xb7, dst, 0, 0, value);
    }
    fn copy(&mut self, dst: u8, src: u8) {
        self.push(0xbf, dst, src, 0, 0);
    }
    fn add(&mut self, dst: u8, value: i32) {
        self.push(0x07, dst, 0, 0, value);
    }
    fn load32(&mut self, dst: u8, src: u8, offset: i16) {
        self.push(0x61, dst, src, offset, 0);
    }
    fn load8(&mut self, dst: u8, src: u8, offset: i16) {
        self.push(0x71, dst, src, offset, 0);
    }
    fn or(&mut self, dst: u8, src: u8) {
        self.push(0x4f, dst, src, 0, 0);
    }
    fn load64(&mut self, dst: u8, src: u8, offset: i16) {
        self.push(0x79, dst, src, offset, 0);
    }
    /// Stores 32 bits of an immediate on the stack.
    fn stack32(&mut self, offset: i16, value: i32) {
        self.push(0x62, R10, 0, offset, value);
    }
    fn map(&mut self, dst: u8, fd: &OwnedFd) {
        const PSEUDO_MAP_FD: u8 = 1;
        self.push(0x18, dst, PSEUDO_MAP_FD, 0, fd.as_raw_fd());
        self.push(0, 0, 0, 0, 0);
    }
    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }
    fn jump(&mut self, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(0x05, 0, 0, 0, 0);
    }
    fn jump_eq(&mut self, dst: u8, value: i32, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(0x15, dst, 0, 0, value);
    }
    fn jump_eq_to(&mut self, dst: u8, src: u8, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(0x1d, dst, src, 0, 0);
    }
    fn jump_ne(&mut self, dst: u8, value: i32, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(0x55, dst, 0, 0, value);
    }
    /// Unsigned `dst < src`.
    fn jump_below(&mut self, dst: u8, src: u8, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.push(0xad, dst, src, 0, 0);
    }
    fn exit(&mut self, verdict: i32) {
        self.set(R0, verdict);
        self.push(0x95, 0, 0, 0, 0);
    }
    /// Copies `len` bytes of the frame from `at` to the stack; a frame that is too short passes: it carries no VIP.
    fn frame_to_stack(&mut self, at: i32, stack: i16, len: i32) {
        self.copy(R1, R6);
        self.set(R2, at);
        self.copy(R3, R10);
        self.add(R3, i32::from(stack));
        self.set(R4, len);
        self.call(SKB_LOAD_BYTES);
        self.jump_ne(R0, 0, "pass");
    }
    /// Looks the key on the stack up; a hit goes on to `hit`.
    fn look_up(&mut self, map: &OwnedFd, stack: i16, hit: &'static str) {
        self.map(R1, map);
        self.copy(R2, R10);
        self.add(R2, i32::from(stack));
        self.call(MAP_LOOKUP);
        self.jump_ne(R0, 0, hit);
    }
    fn finish(mut self) -> Vec<Instruction> {
        for (at, name) in &self.jumps {
            let target = self.labels.iter().find(|(label, _)| label == name).map(|(_, to)| *to);
            // A label that is missing or too far is a mistake in the text above, found by the first test that loads it.
            let target = target.unwrap_or_else(|| unreachable!("label {name}"));
            self.code[*at].offset = i16::try_from(target - at - 1).unwrap_or(i16::MAX);
        }
        self.code
    }
}

/// An EtherType as `__sk_buff.protocol` shows it: network order read as a number of this machine.
const fn ether_type(value: u16) -> i32 {
    value.to_be() as i32
}

fn instructions(way: Way, deadline: &OwnedFd, v4: &OwnedFd, v6: &OwnedFd) -> Vec<Instruction> {
    // Offsets from the start of an Ethernet frame: RFC 826, RFC 791, RFC 8200, RFC 4861.
    let (arp_address, v4_address, v6_address, nd_type) = match way {
        Way::In => (38, 30, 38, 135),
        Way::Out => (28, 26, 22, 136),
    };
    // Keys on the stack: prefix length, then the address.
    let (key4, key6): (i16, i16) = (-8, -32);
    let word: i16 = -40;
    let source: i16 = -56;
    let mut a = Assembler::default();
    a.copy(R6, R1);
    a.load32(R7, R6, SKB_PROTOCOL);
    a.jump_eq(R7, ether_type(0x0800), "ipv4");
    a.jump_eq(R7, ether_type(0x86dd), "ipv6");
    a.jump_ne(R7, ether_type(0x0806), "pass");

    a.frame_to_stack(arp_address, key4 + 4, 4);
    if way == Way::In {
        a.frame_to_stack(28, word, 4);
        a.load32(R7, R10, word);
        a.jump_eq(R7, 0, "pass");
        a.load32(R1, R10, key4 + 4);
        a.jump_eq_to(R7, R1, "pass");
    }
    a.jump("vip4");

    a.label("ipv4");
    a.frame_to_stack(v4_address, key4 + 4, 4);
    a.label("vip4");
    a.stack32(key4, 32);
    a.look_up(v4, key4, "vip");
    a.jump("pass");

    a.label("ipv6");
    a.frame_to_stack(v6_address, key6 + 4, 16);
    a.stack32(key6, 128);
    a.look_up(v6, key6, "vip");
    // Next header ICMPv6, and the one kind of neighbour message that matters this way: its target is a VIP?
    a.frame_to_stack(20, word, 1);
    a.load8(R7, R10, word);
    a.jump_ne(R7, 58, "pass");
    a.frame_to_stack(54, word, 1);
    a.load8(R7, R10, word);
    a.jump_ne(R7, nd_type, "pass");
    if way == Way::In {
        a.frame_to_stack(22, source, 16);
        a.load64(R7, R10, source);
        a.load64(R1, R10, source + 8);
        a.or(R7, R1);
        a.jump_eq(R7, 0, "pass");
    }
    a.frame_to_stack(62, key6 + 4, 16);
    a.look_up(v6, key6, "vip");
    a.jump("pass");

    a.label("vip");
    a.call(KTIME_GET_BOOT_NS);
    a.copy(R7, R0);
    a.stack32(word, 0);
    a.map(R1, deadline);
    a.copy(R2, R10);
    a.add(R2, i32::from(word));
    a.call(MAP_LOOKUP);
    a.jump_eq(R0, 0, "drop");
    a.load64(R1, R0, 0);
    a.jump_below(R7, R1, "pass");
    a.label("drop");
    a.exit(DROP);
    a.label("pass");
    a.exit(PASS);
    a.finish()
}
