// SPDX-License-Identifier: MIT OR Apache-2.0
//! What libbpf prints: to the log, and kept aside for error messages.

use libbpf_rs::libbpf_sys;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write;
use std::mem;

/// Lines of the verifier's log that an error shows.
const TAIL: usize = 20;

const BEGIN: &str = "-- BEGIN PROG LOAD LOG --";
const END: &str = "-- END PROG LOAD LOG --";

thread_local! {
    // libbpf calls back in the thread that called it, so a thread's messages are its own.
    static KEPT: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `work` and gives what libbpf said meanwhile, beside its result.
///
/// The messages go to the log at info and debug level only: a failure is reported once, by
/// whoever looks at the result.
pub fn keep<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    listen();
    KEPT.set(Some(Vec::new()));
    let result = work();
    (result, KEPT.take().unwrap_or_default())
}

/// Makes libbpf talk to us. libbpf-rs has a callback for that, too, which aborts the process where
/// an object has brought bytes into a message that are no UTF-8.
fn listen() {
    type Callback =
        unsafe extern "C" fn(libbpf_sys::libbpf_print_level, *const c_char, *mut c_void) -> c_int;
    let callback: Callback = heard;
    // SAFETY: the same but for the last argument, a `va_list`, which is passed as a pointer wherever
    // BPF programs run; bindgen's name of it differs from machine to machine.
    let callback = unsafe { mem::transmute::<Callback, libbpf_sys::libbpf_print_fn_t>(callback) };
    // SAFETY: the callback may be called at any time from any thread, and does not unwind.
    unsafe { libbpf_sys::libbpf_set_print(callback) };
}

/// # Safety
/// libbpf calls it, with a format and what belongs to it.
unsafe extern "C" fn heard(
    level: libbpf_sys::libbpf_print_level,
    format: *const c_char,
    args: *mut c_void,
) -> c_int {
    // SAFETY: as libbpf gave them.
    if let Ok(bytes) = unsafe { vsprintf::vsprintf_raw(format, args) } {
        keep_message(level, &String::from_utf8_lossy(&bytes));
    }
    0
}

fn keep_message(level: libbpf_sys::libbpf_print_level, message: &str) {
    let message = message
        .trim_start_matches("libbpf: ")
        .trim_end()
        .to_string();
    // libbpf's debug level tells every relocation: not worth keeping.
    if level == libbpf_sys::LIBBPF_DEBUG {
        log::debug!("{message}");
        return;
    }
    log::info!("{message}");
    KEPT.with_borrow_mut(|kept| {
        if let Some(kept) = kept {
            kept.push(message);
        }
    });
}

/// The verifier's refusal of one program.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The program, by the name of its C function.
    pub program: &'a str,
    /// The whole log.
    pub log: &'a str,
}

impl<'a> Refusal<'a> {
    /// Finds the refusal among libbpf's messages.
    pub fn find(messages: &'a [String]) -> Option<Self> {
        messages.iter().find_map(|message| {
            let (head, rest) = message.split_once(BEGIN)?;
            let (log, _) = rest.rsplit_once(END).unwrap_or((rest, ""));
            let program = head.split('\'').nth(1).unwrap_or("?");
            Some(Refusal {
                program,
                log: log.trim_matches('\n'),
            })
        })
    }

    /// The last lines of the log, indented; the first says how many are left out.
    pub fn tail(&self) -> String {
        let lines: Vec<_> = self.log.lines().collect();
        let skipped = lines.len().saturating_sub(TAIL);
        let mut tail = String::new();
        if skipped > 0 {
            let _ = writeln!(tail, "  … {skipped} lines above …");
        }
        for line in &lines[skipped..] {
            let _ = writeln!(tail, "  {line}");
        }
        tail.truncate(tail.trim_end().len());
        tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(lines: usize) -> String {
        let log: String = (0..lines).map(|i| format!("{i}: r0 = {i}\n")).collect();
        format!("libbpf: prog 'my_map': {BEGIN}\n{log}{END}\n")
    }

    #[test]
    fn a_refusal_is_found_among_other_messages() {
        let messages = ["libbpf: prog 'other': failed\n".to_string(), message(2)];
        let refusal = Refusal::find(&messages).unwrap();
        assert_eq!(
            refusal,
            Refusal {
                program: "my_map",
                log: "0: r0 = 0\n1: r0 = 1"
            }
        );
        assert_eq!(refusal.tail(), "  0: r0 = 0\n  1: r0 = 1");
        assert_eq!(Refusal::find(&messages[..1]), None);
    }

    #[test]
    fn a_long_log_shows_its_end() {
        let messages = [message(100)];
        let tail = Refusal::find(&messages).unwrap().tail();
        assert!(
            tail.starts_with("  … 80 lines above …\n  80: r0 = 80\n"),
            "{tail}"
        );
        assert!(tail.ends_with("\n  99: r0 = 99"), "{tail}");
    }
}
