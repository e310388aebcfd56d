// SPDX-License-Identifier: MIT OR Apache-2.0
//! Telling the story: headings, notes, steps with the time that has passed.

use std::sync::OnceLock;
use std::time::Instant;

const WIDTH: usize = 92;

/// Since the first word was said.
fn elapsed() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// The start of a chapter.
pub fn heading(text: &str) {
    elapsed();
    println!("\n== {text}");
}

/// An explanation, wrapped.
pub fn note(text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            println!(" {line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    println!(" {line}");
}

/// Something that was done and found good.
pub fn step(text: &str) {
    println!("  [{:4.0} s] {text}", elapsed());
}

/// What is done next, of which the clock says nothing: it counts instructions.
pub fn untimed(text: &str) {
    println!("  - {text}");
}

/// `1234567` as `1 234 567`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
