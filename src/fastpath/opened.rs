// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object before it is in the kernel: found to be a program, named, its variables set.

use super::output;
use super::set::Setting;
use super::vars::{self, Ops, OPS_TYPE};
use super::{Name, Source};
use crate::error::{Error, Kind, Result};
use crate::uapi::c_text;
use libbpf_rs::{Btf, MapType, ObjectBuilder, OpenObject};

/// The section that makes a program's ops outlive the process that loads them.
const LINK_SECTION: &str = ".struct_ops.link";

/// An object whose one set of ops is known, before it is in the kernel.
#[derive(Debug)]
pub struct Opened {
    pub(super) label: String,
    /// The variable of the ops, which is the name of their map.
    pub(super) ops: String,
    pub(super) name: Name,
    pub(super) object: OpenObject,
}

impl Opened {
    /// Opens `source`, names its ops `rename` (if given) and makes the settings.
    pub fn open(source: &Source, rename: Option<&Name>, settings: &[Setting]) -> Result<Self> {
        let label = source.label.clone();
        let (opened, messages) = output::keep(|| -> libbpf_rs::Result<_> {
            let object = ObjectBuilder::default()
                .name(object_name(&label))?
                .open_memory(&source.bytes)?;
            Ok((object, Btf::from_raw("object", &source.bytes)?))
        });
        let (mut object, btf) = opened.map_err(|err| {
            // libbpf's messages say more than its errors do.
            let why = messages.last().cloned().unwrap_or_else(|| err.to_string());
            let advice = "is it a BPF object, made with `clang -g -O2 --target=bpf`?";
            Error::new(
                Kind::Usage,
                format!("failed to open `{label}`: {why}; {advice}"),
            )
        })?;
        let btf = btf.ok_or_else(|| {
            let why = "it has no type information; compile it with `-g`";
            Error::new(Kind::Usage, format!("failed to open `{label}`: {why}"))
        })?;

        let ops = the_one(&label, vars::ops(&btf))?;
        let name = set_name(&label, &mut object, &ops, rename)?;
        make_settings(&label, &mut object, &btf, settings)?;
        Ok(Opened {
            label,
            ops: ops.var,
            name,
            object,
        })
    }

    /// The name that it will be registered under.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// A name for libbpf: it prefixes the names of the object's internal maps.
fn object_name(label: &str) -> String {
    let file = label.rsplit('/').next().unwrap_or(label);
    let stem = file.split('.').next().unwrap_or(file);
    stem.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(15)
        .collect()
}

fn the_one(label: &str, all: Vec<Ops>) -> Result<Ops> {
    let refuse = |why: String| {
        Err(Error::new(
            Kind::Usage,
            format!("failed to open `{label}`: {why}"),
        ))
    };
    let (ours, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|ops| ops.ty == OPS_TYPE);
    let mut ours = ours.into_iter();
    match (ours.next(), ours.next()) {
        (Some(ops), None) if ops.section == LINK_SECTION => Ok(ops),
        (Some(ops), None) => refuse(format!(
            "`{}` is in SEC(\"{}\"), where it could not be replaced or outlive its loader; put it in SEC(\"{LINK_SECTION}\")",
            ops.var, ops.section
        )),
        (Some(one), Some(two)) => refuse(format!(
            "it has several struct {OPS_TYPE} (`{}`, `{}`); one object holds one program", one.var, two.var
        )),
        (None, _) => match others.first() {
            Some(other) => refuse(format!("its `{}` is a struct {}, not a struct {OPS_TYPE}", other.var, other.ty)),
            None => refuse(format!("it has no struct {OPS_TYPE} in SEC(\"{LINK_SECTION}\")")),
        },
    }
}

/// Names the ops `rename`, or reads the name that they have.
fn set_name(
    label: &str,
    object: &mut OpenObject,
    ops: &Ops,
    rename: Option<&Name>,
) -> Result<Name> {
    let foreign = || {
        let why = "its ops do not look like those of ubd_bpf.h; compile it with the current header";
        Error::new(Kind::Usage, format!("failed to open `{label}`: {why}"))
    };
    let mut map = object
        .maps_mut()
        .find(|map| map.map_type() == MapType::StructOps && map.name() == ops.var.as_str())
        .ok_or_else(foreign)?;
    let (offset, len) = ops.name.ok_or_else(foreign)?;
    let field = map
        .initial_value_mut()
        .and_then(|data| data.get_mut(offset..offset + len))
        .ok_or_else(foreign)?;
    match rename {
        None => match c_text(field).as_str() {
            "" => Err(Error::new(
                Kind::Usage,
                format!(
                    "failed to open `{label}`: its ops have no name; set `.name`, or give `--name`"
                ),
            )),
            text => text.parse(),
        },
        Some(name) => {
            let bytes = name.as_str().as_bytes();
            // Room for the NUL.
            if bytes.len() >= field.len() {
                return Err(foreign());
            }
            field.fill(0);
            field[..bytes.len()].copy_from_slice(bytes);
            Ok(name.clone())
        }
    }
}

fn make_settings(
    label: &str,
    object: &mut OpenObject,
    btf: &Btf<'_>,
    settings: &[Setting],
) -> Result<()> {
    let variables = vars::variables(btf);
    for setting in settings {
        let Some(variable) = variables
            .iter()
            .find(|variable| variable.name == setting.var)
        else {
            let all: Vec<_> = variables
                .iter()
                .map(|variable| variable.declaration())
                .collect();
            let known = match all.is_empty() {
                true => "it has no `const volatile` numbers".into(),
                false => format!("it has: {}", all.join(", ")),
            };
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "failed to set `{}`: `{label}` has no such variable; {known}",
                    setting.var
                ),
            ));
        };
        // libbpf calls `.rodata`'s map OBJECT.rodata, and others by their section.
        let mut map = object
            .maps_mut()
            .find(|map| map.name().to_string_lossy().ends_with(&variable.section))
            .ok_or_else(|| {
                let why = format!("`{label}` has no section `{}`", variable.section);
                Error::new(
                    Kind::Usage,
                    format!("failed to set `{}`: {why}", setting.var),
                )
            })?;
        variable.store(setting, map.initial_value_mut().unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::bpf_object;
    use super::*;

    fn source(bytes: &'static [u8]) -> Source {
        Source {
            label: "some/dir/prog.bpf.o".into(),
            bytes: bytes.into(),
        }
    }

    fn refusal(source: &Source, settings: &[&str]) -> String {
        let settings: Vec<_> = settings.iter().map(|text| text.parse().unwrap()).collect();
        let err = Opened::open(source, None, &settings).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage, "{err}");
        err.to_string()
    }

    #[test]
    fn the_name_is_the_objects_unless_another_is_given() {
        let linear = source(bpf_object!("linear"));
        assert_eq!(
            Opened::open(&linear, None, &[]).unwrap().name().as_str(),
            "linear"
        );

        let name = "another.name-15".parse().unwrap();
        let mut renamed = Opened::open(&linear, Some(&name), &[]).unwrap();
        assert_eq!(renamed.name(), &name);
        let mut map = renamed
            .object
            .maps_mut()
            .find(|map| map.name() == "linear")
            .unwrap();
        assert_eq!(
            &map.initial_value_mut().unwrap()[12..28],
            b"another.name-15\0"
        );
    }

    #[test]
    fn settings_reach_the_data_of_the_object() {
        let texts = [
            "a_bool=true",
            "an_s8=-2",
            "grid[5]=-7",
            "elsewhere=9",
            "a_u64=0x1000000000",
        ];
        let settings: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let object = source(bpf_object!("tests/settings"));
        let mut opened = Opened::open(&object, None, &settings).unwrap();
        let btf = Btf::from_raw("object", &object.bytes).unwrap().unwrap();
        let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
        for variable in vars::variables(&btf) {
            let mut map = opened
                .object
                .maps_mut()
                .find(|map| map.name().to_string_lossy().ends_with(&variable.section))
                .unwrap();
            let len = variable.scalar.size * variable.elements.unwrap_or(1);
            let data = &map.initial_value_mut().unwrap()[variable.offset..][..len];
            seen.push((variable.name, data.to_vec()));
        }
        let value = |name: &str| &seen.iter().find(|(var, _)| var == name).unwrap().1[..];
        assert_eq!(value("a_bool"), [1]);
        assert_eq!(value("an_s8"), (-2i8).to_ne_bytes());
        assert_eq!(value("a_u16"), [0, 0]);
        assert_eq!(value("elsewhere"), 9u32.to_ne_bytes());
        assert_eq!(value("a_u64"), 0x10_0000_0000u64.to_ne_bytes());
        assert_eq!(value("grid")[..20], [0; 20]);
        assert_eq!(value("grid")[20..], (-7i32).to_ne_bytes());
    }

    #[test]
    fn an_unknown_variable_is_told_the_known_ones() {
        let said = refusal(&source(bpf_object!("concat")), &["slots=3"]);
        assert!(said.contains("failed to set `slots`"), "{said}");
        assert!(
            said.contains("u64 slot_len[64]") && said.contains("u32 nr"),
            "{said}"
        );
        let said = refusal(&source(bpf_object!("tests/null_ok")), &["x=3"]);
        assert!(
            said.contains("it has no `const volatile` numbers"),
            "{said}"
        );
        let said = refusal(&source(bpf_object!("tests/settings")), &["not_constant=3"]);
        assert!(said.contains("no such variable"), "{said}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let said = refusal(&source(b"int main;"), &[]);
        assert!(said.contains("is it a BPF object, made with"), "{said}");
    }

    #[test]
    fn exactly_one_program_is_wanted() {
        let ops = |var: &str, section: &str, ty: &str| Ops {
            var: var.into(),
            section: section.into(),
            ty: ty.into(),
            name: None,
        };
        let said = |all| the_one("p.o", all).unwrap_err().to_string();
        let (a, b) = (
            ops("a", LINK_SECTION, OPS_TYPE),
            ops("b", LINK_SECTION, OPS_TYPE),
        );
        assert_eq!(the_one("p.o", vec![a.clone()]).unwrap(), a);
        assert!(said(vec![a, b]).contains("several struct ubd_bpf_ops (`a`, `b`)"));
        assert!(said(vec![]).contains("no struct ubd_bpf_ops in SEC(\".struct_ops.link\")"));
        assert!(said(vec![ops("t", LINK_SECTION, "tcp_ops")]).contains("is a struct tcp_ops"));
        assert!(said(vec![ops("a", ".struct_ops", OPS_TYPE)]).contains("put it in SEC"));
    }
}
