// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--set VAR=VALUE`: what people write, and the bytes that it becomes.

use crate::error::{Error, Kind, Result};
use std::fmt;
use std::str::FromStr;

/// One `--set`: `VAR=VALUE`, `VAR=V0,V1,…` or `VAR[I]=V`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub var: String,
    /// The first element that is set, if one was named.
    pub index: Option<usize>,
    /// The values, in order.
    pub values: Vec<Value>,
}

/// A number as it was written: wide enough for every integer of BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Decimal or hexadecimal, with or without a sign.
    Number(i128),
    /// `true` or `false`.
    Bool(bool),
}

/// How one number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalar {
    /// Bytes: 1, 2, 4, 8 or 16.
    pub size: usize,
    /// Negative numbers are allowed.
    pub signed: bool,
    /// Only true and false (or 1 and 0) are allowed.
    pub boolean: bool,
}

/// A variable that can be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name in the C source.
    pub name: String,
    /// The section that holds it: `.rodata`, `.rodata.x`.
    pub section: String,
    /// Bytes from the start of the section.
    pub offset: usize,
    /// The type of the number, or of each number of an array.
    pub scalar: Scalar,
    /// Elements of an array; `None` for a single number.
    pub elements: Option<usize>,
}

/// As it is parsed.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.var)?;
        if let Some(index) = self.index {
            write!(f, "[{index}]")?;
        }
        for (nr, value) in self.values.iter().enumerate() {
            f.write_str(if nr == 0 { "=" } else { "," })?;
            match value {
                Value::Number(number) => write!(f, "{number}")?,
                Value::Bool(flag) => write!(f, "{flag}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Setting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad =
            |why: &str| Error::new(Kind::Usage, format!("failed to read `--set {text}`: {why}"));
        let (left, right) = text
            .split_once('=')
            .ok_or_else(|| bad("it is not VAR=VALUE"))?;
        let (var, index) = match left.split_once('[') {
            None => (left, None),
            Some((var, rest)) => {
                let digits = rest
                    .strip_suffix(']')
                    .ok_or_else(|| bad("the index has no `]`"))?;
                let index = digits
                    .parse()
                    .map_err(|_| bad("the index is not a number"))?;
                (var, Some(index))
            }
        };
        if var.is_empty() || !var.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(bad("VAR is not the name of a variable"));
        }
        let values = right
            .split(',')
            .map(|value| {
                Value::parse(value).ok_or_else(|| bad(&format!("`{value}` is not a number")))
            })
            .collect::<Result<_>>()?;
        Ok(Setting {
            var: var.into(),
            index,
            values,
        })
    }
}

impl Value {
    fn parse(text: &str) -> Option<Value> {
        match text {
            "true" => return Some(Value::Bool(true)),
            "false" => return Some(Value::Bool(false)),
            _ => (),
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        // from_str_radix would take a second sign.
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let magnitude = match digits
            .strip_prefix("0x")
            .or_else(|| digits.strip_prefix("0X"))
        {
            Some(hex) if !hex.starts_with('+') => i128::from_str_radix(hex, 16).ok()?,
            Some(_) => return None,
            None => digits.parse().ok()?,
        };
        Some(Value::Number(if negative { -magnitude } else { magnitude }))
    }
}

impl Scalar {
    /// The bytes of `value`, or why it has none.
    fn encode(self, value: Value) -> Result<Vec<u8>, String> {
        let number = match value {
            Value::Bool(bool) if self.boolean => i128::from(bool),
            Value::Bool(_) => return Err("it is not a bool".into()),
            Value::Number(number) => number,
        };
        let (min, max) = self.range();
        if number < min || number > max {
            return Err(format!("{number} is not in {min}..={max}"));
        }
        // Two's complement: the low bytes are the number at any width.
        let bytes = number.to_ne_bytes();
        Ok(match cfg!(target_endian = "little") {
            true => bytes[..self.size].to_vec(),
            false => bytes[bytes.len() - self.size..].to_vec(),
        })
    }

    fn range(self) -> (i128, i128) {
        let bits = (self.size * 8).min(127) as u32;
        match (self.boolean, self.signed) {
            (true, _) => (0, 1),
            (_, true) if self.size >= 16 => (i128::MIN, i128::MAX),
            (_, true) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            (_, false) if bits == 127 => (0, i128::MAX),
            (_, false) => (0, (1 << bits) - 1),
        }
    }
}

impl Variable {
    /// Stores what `setting` says into `data`, the bytes of the variable's section.
    ///
    /// # Errors
    /// [`Kind::Usage`]: a value does not fit the type, or an index is out of range.
    pub fn store(&self, setting: &Setting, data: &mut [u8]) -> Result<()> {
        let bad =
            |why: String| Error::new(Kind::Usage, format!("failed to set `{}`: {why}", self.name));
        let elements = match (self.elements, setting.index) {
            (None, Some(_)) => return Err(bad("it is not an array".into())),
            (elements, _) => elements.unwrap_or(1),
        };
        let first = setting.index.unwrap_or(0);
        let beyond = first
            .checked_add(setting.values.len())
            .is_none_or(|end| end > elements);
        if beyond {
            return Err(bad(match (self.elements, setting.index) {
                (None, _) => "it is one number, not an array".into(),
                (_, Some(_)) => format!("its last element is [{}]", elements.saturating_sub(1)),
                (_, None) => format!("it has only {elements} elements"),
            }));
        }
        for (i, &value) in setting.values.iter().enumerate() {
            let bytes = self.scalar.encode(value).map_err(&bad)?;
            let at = self.offset + (first + i) * self.scalar.size;
            let place = data.get_mut(at..at + self.scalar.size).ok_or_else(|| {
                bad("the object's type information does not match its data".into())
            })?;
            place.copy_from_slice(&bytes);
        }
        Ok(())
    }

    /// The declaration as C would have it: `u64 slot_len[64]`.
    pub fn declaration(&self) -> String {
        let ty = match self.scalar {
            Scalar { boolean: true, .. } => "bool".into(),
            Scalar { signed, size, .. } => {
                format!("{}{}", if signed { 's' } else { 'u' }, size * 8)
            }
        };
        match self.elements {
            None => format!("{ty} {}", self.name),
            Some(elements) => format!("{ty} {}[{elements}]", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(size: usize, signed: bool, elements: Option<usize>) -> Variable {
        Variable {
            name: "v".into(),
            section: ".rodata".into(),
            offset: 8,
            scalar: Scalar {
                size,
                signed,
                boolean: false,
            },
            elements,
        }
    }

    fn stored(variable: &Variable, text: &str) -> Result<Vec<u8>> {
        let mut data = vec![0xee; 24];
        variable.store(&text.parse()?, &mut data)?;
        Ok(data)
    }

    #[test]
    fn settings_are_read() {
        let all = "slot_len=1,0x10,-3,true".parse::<Setting>().unwrap();
        let values = [
            Value::Number(1),
            Value::Number(16),
            Value::Number(-3),
            Value::Bool(true),
        ];
        assert_eq!(
            all,
            Setting {
                var: "slot_len".into(),
                index: None,
                values: values.into()
            }
        );
        let one = "slot_len[7]=9".parse::<Setting>().unwrap();
        assert_eq!(one.to_string(), "slot_len[7]=9");
        assert_eq!(all.to_string(), "slot_len=1,16,-3,true");
        assert_eq!((one.index, one.values), (Some(7), vec![Value::Number(9)]));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", "x", "=1", "x=", "x=1,", "x=1,,2", "x[=1", "x[]=1", "x[-1]=1", "x[1=1", "x y=1",
            "x=--1", "x=+1", "x=-+1", "x=0x", "x=0x+1", "x=1k", "x=1=2", "x=yes",
        ] {
            let err = text.parse::<Setting>().unwrap_err();
            assert_eq!(err.kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn numbers_go_where_the_type_says() {
        let mut want = vec![0xee; 24];
        want[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(
            stored(&variable(8, false, None), "v=18446744073709551615").unwrap(),
            want
        );
        assert_eq!(stored(&variable(8, true, None), "v=-1").unwrap(), want);

        let mut want = vec![0xee; 24];
        want[12..14].copy_from_slice(&(-2i16).to_ne_bytes());
        want[14..16].copy_from_slice(&7i16.to_ne_bytes());
        assert_eq!(
            stored(&variable(2, true, Some(4)), "v[2]=-2,7").unwrap(),
            want
        );
    }

    #[test]
    fn the_range_of_the_type_is_kept() {
        for (size, signed, low, high) in [
            (1, false, 0, 255),
            (1, true, -128, 127),
            (2, false, 0, 65_535),
            (4, true, i128::from(i32::MIN), i128::from(i32::MAX)),
            (8, false, 0, i128::from(u64::MAX)),
            (8, true, i128::from(i64::MIN), i128::from(i64::MAX)),
        ] {
            let variable = variable(size, signed, None);
            for good in [low, high] {
                stored(&variable, &format!("v={good}")).unwrap();
            }
            for bad in [low - 1, high + 1] {
                let err = stored(&variable, &format!("v={bad}")).unwrap_err();
                assert!(
                    err.to_string()
                        .contains(&format!("{bad} is not in {low}..={high}")),
                    "{err}"
                );
            }
        }
    }

    #[test]
    fn bools_take_words_and_bits() {
        let mut flag = variable(1, false, None);
        assert!(stored(&flag, "v=true").is_err());
        flag.scalar.boolean = true;
        for (text, byte) in [("true", 1), ("false", 0), ("1", 1), ("0", 0)] {
            assert_eq!(stored(&flag, &format!("v={text}")).unwrap()[8], byte);
        }
        assert!(stored(&flag, "v=2").is_err());
    }

    #[test]
    fn arrays_end_where_they_end() {
        let array = variable(4, false, Some(4));
        assert!(stored(&array, "v=1,2,3,4").is_ok());
        assert!(stored(&array, "v[3]=4").is_ok());
        for text in [
            "v=1,2,3,4,5",
            "v[4]=1",
            "v[3]=1,2",
            "v[18446744073709551615]=1",
        ] {
            assert!(stored(&array, text).is_err(), "{text}");
        }
        let single = variable(4, false, None);
        assert!(stored(&single, "v=1,2").is_err());
        assert!(stored(&single, "v[0]=1").is_err());
    }

    #[test]
    fn type_information_that_lies_is_an_error() {
        let mut far = variable(8, false, None);
        far.offset = 20;
        assert!(stored(&far, "v=1").is_err());
    }
}
