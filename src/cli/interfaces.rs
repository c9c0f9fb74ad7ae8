//! The network interfaces of this machine, as /sys/class/net shows them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Read;
use std::path::Path;

use mapleaf::tree::Field;
use mapleaf::tree::FieldKind;
use mapleaf::tree::Value;

use crate::cli::parse::hex;

/// Where the kernel shows them.
pub(crate) const SYS_CLASS_NET: &str = "/sys/class/net";

/// Longest file of an attribute: sysfs gives a page.
const ATTRIBUTE_LEN_MAX: u64 = 4096;

/// Words of operstate by their numbers (RFC 2863, as the kernel numbers them).
const STATES: [&str; 7] =
    ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];

/// Attributes of an interface under the names that fields have, apart from those
/// in its folder `statistics`, whose names are kept.
const ATTRIBUTES: [(&str, &str); 9] = [
    ("index", "ifindex"),
    ("mtu", "mtu"),
    ("mac", "address"),
    ("speed_mbps", "speed"),
    ("state", "operstate"),
    ("carrier", "carrier"),
    ("type", "type"),
    ("flags", "flags"),
    ("tx_queue_len", "tx_queue_len"),
];

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// What the kernel says, by the name of the field.
    attributes: BTreeMap<String, String>,
}

/// Every interface, by name.
///
/// # Errors
///
/// The folder cannot be read. An interface that goes away meanwhile is left out,
/// an attribute that it does not have is absent.
pub(crate) fn read_interfaces(folder: &Path) -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A name that is not UTF-8 or a plain file (bonding_masters) is not one.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if entry.path().join("ifindex").exists() {
            found.push(read_interface(&entry.path(), name));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn read_interface(folder: &Path, name: String) -> Interface {
    let mut attributes = BTreeMap::new();
    for (field, file) in ATTRIBUTES {
        attributes.extend(attribute(&folder.join(file)).map(|text| (field.to_owned(), text)));
    }
    for entry in fs::read_dir(folder.join("statistics")).into_iter().flatten().flatten() {
        let Ok(field) = entry.file_name().into_string() else { continue };
        attributes.extend(attribute(&entry.path()).map(|text| (field, text)));
    }
    Interface { name, attributes }
}

/// The text of an attribute; some, as the speed of a link that is down, have none.
fn attribute(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(ATTRIBUTE_LEN_MAX).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

impl Interface {
    /// An interface of which nothing but the name is known.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Interface {
        Interface { name: name.to_owned(), attributes: BTreeMap::new() }
    }

    /// The value of a field of this name, as its type takes it. Nothing if the
    /// interface has no such attribute: the field is not touched then.
    pub(crate) fn value(&self, field: &Field) -> Option<Value> {
        let text = match field.name.as_str() {
            "name" => &self.name,
            name => match self.attributes.get(name) {
                Some(text) => text,
                // The kernel gives no speed of a link that is down.
                None if name == "speed_mbps" => return number("-1", field.kind),
                None => return None,
            },
        };
        match (field.name.as_str(), field.kind) {
            (_, FieldKind::Text(size)) => Some(Value::Text(cut(text, size as usize))),
            (_, FieldKind::Bytes(size)) => {
                let mut bytes = hex(text).ok()?;
                bytes.resize(size as usize, 0);
                Some(Value::Bytes(bytes))
            }
            ("state", FieldKind::Bool) => Some(Value::Bool(text == "up")),
            ("state", kind) => {
                let state = STATES.iter().position(|state| state == text).unwrap_or(0);
                number(&state.to_string(), kind)
            }
            (_, FieldKind::Bool) => Some(Value::Bool(text != "0")),
            (_, kind) => number(text, kind),
        }
    }
}

/// A number as the type holds it: counters that are wider keep their low bits, as
/// counters that wrap do.
fn number(text: &str, kind: FieldKind) -> Option<Value> {
    let value: i128 = match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    let bits = 8 * kind.size();
    let low = value & ((1 << bits) - 1);
    match kind {
        FieldKind::F32 | FieldKind::F64 => Some(Value::Float(value as f64)),
        FieldKind::U8 | FieldKind::U16 | FieldKind::U32 | FieldKind::U64 => {
            u64::try_from(low).ok().map(Value::Unsigned)
        }
        FieldKind::I8 | FieldKind::I16 | FieldKind::I32 | FieldKind::I64 => {
            let sign = low >> (bits - 1) << bits;
            i64::try_from(low - sign).ok().map(Value::Signed)
        }
        FieldKind::Bool | FieldKind::Text(_) | FieldKind::Bytes(_) => None,
    }
}

/// The front of a text, whole characters only.
fn cut(text: &str, size: usize) -> String {
    let end = (0..=size.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: FieldKind) -> Field {
        Field { name: name.to_owned(), kind, offset: 0, unit: String::new() }
    }

    fn sample() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("bonding_masters", "\n");
        write("eth1/ifindex", "3\n");
        write("eth1/operstate", "down\n");
        write("eth0/ifindex", "2\n");
        write("eth0/operstate", "up\n");
        write("eth0/mtu", "1500\n");
        write("eth0/flags", "0x1003\n");
        write("eth0/speed", "-1\n");
        write("eth0/address", "02:00:5e:10:00:ff\n");
        write("eth0/statistics/rx_bytes", "4294967298\n");
        folder
    }

    #[test]
    fn interfaces_are_read_in_the_order_of_their_names() {
        let folder = sample();
        let found = read_interfaces(folder.path()).unwrap();
        assert_eq!(found.iter().map(|one| &*one.name).collect::<Vec<_>>(), ["eth0", "eth1"]);
        let value = |name, kind| found[0].value(&field(name, kind));
        assert_eq!(value("name", FieldKind::Text(3)), Some(Value::Text("eth".into())));
        assert_eq!(value("state", FieldKind::U8), Some(Value::Unsigned(6)));
        assert_eq!(value("state", FieldKind::Text(8)), Some(Value::Text("up".into())));
        assert_eq!(value("mtu", FieldKind::U32), Some(Value::Unsigned(1500)));
        assert_eq!(value("flags", FieldKind::U32), Some(Value::Unsigned(0x1003)));
        assert_eq!(value("speed_mbps", FieldKind::I64), Some(Value::Signed(-1)));
        let mac = Value::Bytes(vec![2, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(value("mac", FieldKind::Bytes(6)), Some(mac));
        assert_eq!(value("rx_bytes", FieldKind::U64), Some(Value::Unsigned((1 << 32) + 2)));
        assert_eq!(value("rx_bytes", FieldKind::U32), Some(Value::Unsigned(2)), "it wraps");
        assert_eq!(value("owner", FieldKind::U64), None);
        let speed = found[1].value(&field("speed_mbps", FieldKind::I64));
        assert_eq!(speed, Some(Value::Signed(-1)), "none is told of a link that is down");
    }

    #[test]
    fn every_field_of_the_example_has_a_value_on_this_machine() {
        let Ok(found) = read_interfaces(Path::new(SYS_CLASS_NET)) else { return };
        let layout = mapleaf::tree::Layout::from_toml(crate::cli::agent::EXAMPLE_SCHEMA).unwrap();
        for (interface, parent) in found.iter().zip(layout.owners()) {
            let id = mapleaf::layout::ParentId(parent.parent_id.get());
            for field in layout.fields(id) {
                let mut data = Vec::new();
                let value = interface.value(field).unwrap_or_else(|| panic!("{}", field.name));
                field.encode(&value, &mut data).unwrap();
            }
        }
    }

    #[test]
    fn a_folder_that_is_missing_is_an_error() {
        assert!(read_interfaces(Path::new("/nonexistent")).is_err());
    }
}
