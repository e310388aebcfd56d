// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an object says of itself in its type information (BTF): the
//! variables that can be set, and the ops.

use super::set::{Scalar, Variable};
use libbpf_rs::btf::types::{
    Array, Composite, DataSec, Enum, Enum64, Int, IntEncoding, MemberAttr, Var,
};
use libbpf_rs::btf::{BtfKind, BtfType, ReferencesType};
use libbpf_rs::{Btf, HasSize};

/// The struct that the driver registers.
pub const OPS_TYPE: &str = "ubd_bpf_ops";

/// A struct_ops variable of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ops {
    /// The variable, which is also the name of its map.
    pub var: String,
    /// Where it was put: `.struct_ops.link` in the good case.
    pub section: String,
    /// Its struct, without `struct`.
    pub ty: String,
    /// Offset and length of the member `name`, in bytes.
    pub name: Option<(usize, usize)>,
}

/// The numbers and arrays of numbers in `.rodata`.
pub fn variables(btf: &Btf<'_>) -> Vec<Variable> {
    vars_in(btf, ".rodata")
        .filter_map(|(section, name, offset, ty)| {
            let (scalar, elements) = numbers(ty, DEPTH)?;
            Some(Variable {
                name,
                section,
                offset,
                scalar,
                elements,
            })
        })
        .collect()
}

/// All struct_ops variables.
pub fn ops(btf: &Btf<'_>) -> Vec<Ops> {
    // A leading `?` marks a map that is not created by default.
    vars_in(btf, ".struct_ops")
        .chain(vars_in(btf, "?.struct_ops"))
        .filter_map(|(section, var, _, ty)| {
            let composite = Composite::try_from(plain(ty)?).ok()?;
            let full = composite.name()?.to_string_lossy().into_owned();
            // `type___flavour` stands for `type`.
            let ty = full.split("___").next().unwrap_or(&full).to_string();
            Some(Ops {
                var,
                section,
                ty,
                name: name_member(btf, &composite),
            })
        })
        .collect()
}

fn name_member(btf: &Btf<'_>, composite: &Composite<'_>) -> Option<(usize, usize)> {
    let member = composite
        .iter()
        .find(|m| m.name.is_some_and(|name| name == "name"))?;
    let MemberAttr::Normal { offset: bits } = member.attr else {
        return None;
    };
    let ty = btf.type_by_id::<BtfType<'_>>(member.ty)?;
    let array = Array::try_from(plain(ty)?).ok()?;
    Some((bits as usize / 8, array.capacity()))
}

/// Section, name, offset and type of every variable in sections called `prefix` or `prefix.…`.
fn vars_in<'a>(
    btf: &'a Btf<'a>,
    prefix: &'static str,
) -> impl Iterator<Item = (String, String, usize, BtfType<'a>)> + 'a {
    btf.type_by_kind::<DataSec<'_>>().flat_map(move |section| {
        let name = section
            .name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let ours = name
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let found: Vec<_> = match ours {
            false => Vec::new(),
            true => section
                .iter()
                .filter_map(|info| {
                    let var = btf.type_by_id::<Var<'_>>(info.ty)?;
                    let var_name = var.name()?.to_string_lossy().into_owned();
                    Some((
                        name.clone(),
                        var_name,
                        info.offset as usize,
                        var.referenced_type(),
                    ))
                })
                .collect(),
        };
        found
    })
}

/// Types within types that an object may have; a damaged one's might have no end.
const DEPTH: usize = 32;

/// The type behind typedefs, `const` and `volatile`.
fn plain(mut ty: BtfType<'_>) -> Option<BtfType<'_>> {
    for _ in 0..DEPTH {
        if !ty.is_mod() && ty.kind() != BtfKind::Typedef {
            return Some(ty);
        }
        ty = ty.next_type()?;
    }
    None
}

/// How a variable of this type is stored, if it is made of numbers.
fn numbers(ty: BtfType<'_>, depth: usize) -> Option<(Scalar, Option<usize>)> {
    let ty = plain(ty)?;
    if let Ok(array) = Array::try_from(ty) {
        // An array of arrays is set as one row.
        let (scalar, inner) = numbers(array.contained_type(), depth.checked_sub(1)?)?;
        let elements = array.capacity().checked_mul(inner.unwrap_or(1))?;
        return Some((scalar, Some(elements)));
    }
    let scalar = if let Ok(int) = Int::try_from(ty) {
        Scalar {
            size: int.size(),
            signed: matches!(int.encoding, IntEncoding::Signed),
            boolean: matches!(int.encoding, IntEncoding::Bool),
        }
    } else if let Ok(values) = Enum::try_from(ty) {
        Scalar {
            size: values.size(),
            signed: values.is_signed(),
            boolean: false,
        }
    } else if let Ok(values) = Enum64::try_from(ty) {
        Scalar {
            size: values.size(),
            signed: values.is_signed(),
            boolean: false,
        }
    } else {
        return None;
    };
    // What no compiler says, no number can be stored as.
    matches!(scalar.size, 1 | 2 | 4 | 8 | 16).then_some((scalar, None))
}

#[cfg(test)]
mod tests {
    use super::super::bpf_object;
    use super::*;

    fn find(bytes: &[u8]) -> (Vec<String>, Vec<Ops>) {
        let btf = Btf::from_raw("object", bytes).unwrap().unwrap();
        let mut declarations: Vec<_> = variables(&btf).iter().map(Variable::declaration).collect();
        declarations.sort();
        (declarations, ops(&btf))
    }

    #[test]
    fn the_shipped_programs_tell_their_variables() {
        assert_eq!(find(bpf_object!("linear")).0, ["u64 linear_offset"]);
        assert_eq!(
            find(bpf_object!("concat")).0,
            ["u32 nr", "u64 slot_len[64]"]
        );
    }

    #[test]
    fn every_kind_of_number_is_found_and_nothing_else() {
        let want = [
            "bool a_bool",
            "s32 grid[6]",
            "s8 an_s8",
            "u16 a_u16",
            "u32 a_colour",
            "u32 elsewhere",
            "u64 a_u64",
        ];
        assert_eq!(find(bpf_object!("tests/settings")).0, want);
    }

    #[test]
    fn ops_are_found_by_type() {
        let want = Ops {
            var: "linear".into(),
            section: ".struct_ops.link".into(),
            ty: OPS_TYPE.into(),
            name: Some((12, 16)),
        };
        assert_eq!(find(bpf_object!("linear")).1, [want]);
    }
}
