// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of what reads the words of a command line: no text makes it panic, and what is
//! printed is read as it was.

#![allow(clippy::unwrap_used, reason = "a test that fails, panics")]

use proptest::collection::vec;
use proptest::prelude::*;
use ubd_bpf::fastpath::{Name, Setting, Value};
use ubd_bpf::sysfs::parse_device;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i128>().prop_map(|number| Value::Number(number.max(-i128::MAX))),
        any::<i8>().prop_map(|number| Value::Number(number.into())),
        any::<bool>().prop_map(Value::Bool),
    ]
}

prop_compose! {
    fn setting()(
        var in "[a-zA-Z0-9_]{1,20}",
        index in proptest::option::of(any::<usize>()),
        values in vec(value(), 1..5),
    ) -> Setting {
        Setting { var, index, values }
    }
}

proptest! {
    #[test]
    fn a_setting_is_read_as_it_is_printed(setting in setting()) {
        prop_assert_eq!(setting.to_string().parse::<Setting>().unwrap(), setting);
    }

    #[test]
    fn any_setting_is_taken_or_refused(text in "[a-z0-9=,+x_\\[\\]-]{0,24}|.{0,24}") {
        if let Ok(setting) = text.parse::<Setting>() {
            let again = setting.to_string().parse::<Setting>();
            prop_assert_eq!(again.unwrap(), setting);
        }
    }

    /// A name is fit for the driver, and for a file.
    #[test]
    fn any_name_is_taken_or_refused(text in "[a-z0-9._/-]{0,20}|.{0,20}") {
        if let Ok(name) = text.parse::<Name>() {
            prop_assert_eq!(name.as_str(), &text);
            prop_assert!((1..16).contains(&text.len()), "{}", text);
            prop_assert!(!text.starts_with(['.', '-']) && !text.contains(['/', '\0']), "{}", text);
        }
    }

    #[test]
    fn devices_are_numbers(id in any::<u32>(), form in 0..3usize) {
        let text = [format!("{id}"), format!("ubdb{id}"), format!("/dev/ubdb{id}")];
        prop_assert_eq!(parse_device(&text[form]).unwrap(), id);
    }

    #[test]
    fn any_device_is_taken_or_refused(text in "(/dev/)?(ubdb)?[0-9+-]{0,12}|.{0,24}") {
        if let Ok(id) = parse_device(&text) {
            prop_assert!(text.ends_with(&id.to_string()), "{}", text);
        }
    }
}
