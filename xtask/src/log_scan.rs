// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds what the kernel complained about in its log.

/// A line with one of these is a complaint.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "kernel BUG at",
    "KASAN",
    "KFENCE",
    "UBSAN",
    "kmemleak:",
    "general protection fault",
    "unable to handle",
    "refcount_t",
    "list_add corruption",
    "list_del corruption",
    "ODEBUG:",
    "possible circular locking",
    "possible recursive locking",
    "possible irq lock inversion",
    "inconsistent lock state",
    "suspicious RCU usage",
    "sleeping function called",
    "scheduling while atomic",
    "bad unlock balance",
    "lock held when returning to user space",
    "held lock freed",
    "detected stall",
    "blocked for more than",
    "Call Trace:",
    "page allocation failure",
    "Out of memory",
    "still in use",
    "Objects remaining",
];

/// Lines with one of these only say that a checker is at work.
const HARMLESS: &[&str] = &[
    "kasan: KernelAddressSanitizer initialized",
    "kmemleak: Kernel memory leak detector initialized",
    "kmemleak: Automatic memory scanning thread started",
    // Anybody's; the tests tell which are ours.
    "new suspected memory leaks",
    "kfence: initialized",
];

/// How much around a complaint is shown.
const BEFORE: usize = 3;
const AFTER: usize = 25;

fn is_complaint(line: &str) -> bool {
    let found = |words: &[&str]| words.iter().any(|word| line.contains(word));
    found(COMPLAINTS) && !found(HARMLESS)
}

/// The first complaint in a kernel log, without its time.
pub fn first(log: &str) -> Option<&str> {
    let line = log.lines().find(|line| is_complaint(line))?;
    let text = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "));
    Some(text.map_or(line, |(_, text)| text))
}

/// The complaints in a kernel log, each with the lines around it; those that touch are one.
pub fn complaints(log: &str) -> Vec<String> {
    let lines: Vec<_> = log.lines().collect();
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if !is_complaint(line) {
            continue;
        }
        let (start, end) = (at.saturating_sub(BEFORE), (at + AFTER).min(lines.len()));
        match spans.last_mut() {
            Some(last) if start <= last.1 => last.1 = end,
            _ => spans.push((start, end)),
        }
    }
    spans
        .iter()
        .map(|&(start, end)| lines[start..end].join("\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(middle: &str) -> String {
        let quiet = (0..100)
            .map(|n| format!("[    {n}.0] sd 0:0: quiet\n"))
            .collect::<String>();
        format!("{quiet}{middle}\n{quiet}")
    }

    #[test]
    fn a_quiet_log_has_none() {
        assert!(complaints(&log("[ 1.0] Linux version 6.12 (Debian)")).is_empty());
        assert!(complaints(&log(
            "[ 1.0] kmemleak: Automatic memory scanning thread started"
        ))
        .is_empty());
        assert!(complaints("").is_empty());
    }

    #[test]
    fn every_kind_of_complaint_is_found() {
        for line in [
            "WARNING: CPU: 1 PID: 77 at kernel/foo.c:12 foo+0x1/0x2 [ubd_drv]",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "Oops: 0000 [#1] PREEMPT SMP",
            "WARNING: possible circular locking dependency detected",
            "BUG: KASAN: slab-use-after-free in ubd_x+0x1/0x2",
            "INFO: task fio:99 blocked for more than 120 seconds.",
            "BUG: sleeping function called from invalid context at mm/x.c:1",
            "refcount_t: underflow; use-after-free.",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "kmemleak: Cannot allocate a kmemleak_object structure",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s!",
        ] {
            let found = complaints(&log(&format!("[   42.0] {line}")));
            assert_eq!(found.len(), 1, "{line}");
            assert!(found[0].contains(line), "{line}");
        }
    }

    #[test]
    fn a_complaint_comes_with_its_trace_and_once() {
        let found = complaints(&log(
            "WARNING: at x\nCall Trace:\n foo\n bar\n---[ end trace ]---",
        ));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains(" bar"));
        assert!(found[0].lines().count() < 40);
    }

    #[test]
    fn distant_complaints_are_told_apart() {
        assert_eq!(complaints(&(log("BUG: one") + &log("BUG: two"))).len(), 2);
    }
}
