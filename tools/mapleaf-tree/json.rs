//! JSON Lines: leaves, whole and damaged.

use std::io::Write;

use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeMap;

use mapleaf::layout::DataLocId;
use mapleaf::tree::Field;
use mapleaf::tree::LeafDamage;
use mapleaf::tree::LeafView;
use mapleaf::tree::TreeFile;
use mapleaf::tree::Value;
use mapleaf::tree::write_hex;

/// Writes one object.
pub(crate) fn json_line(out: &mut impl Write, line: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// A leaf as a line of JSON.
#[derive(Serialize)]
pub(crate) struct LeafLine<'a> {
    pub(crate) data_loc_id: u32,
    pub(crate) path: String,
    pub(crate) change_flag: u32,
    pub(crate) data_size: usize,
    pub(crate) revision: u64,
    pub(crate) checksum: String,
    pub(crate) data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<FieldsLine<'a>>,
}

impl<'a> LeafLine<'a> {
    /// A leaf of the file.
    ///
    /// # Errors
    ///
    /// Hex digits that are not text; there are none.
    pub(crate) fn new(file: &'a TreeFile, leaf: &LeafView<'a>) -> anyhow::Result<LeafLine<'a>> {
        let fields = file.layout().fields_of(leaf.data_loc_id);
        Ok(LeafLine {
            data_loc_id: leaf.data_loc_id.0,
            path: file.layout().path_of(leaf.data_loc_id).unwrap_or_default(),
            change_flag: leaf.change_flag,
            data_size: leaf.data.len(),
            revision: leaf.revision.0,
            checksum: format!("{:08x}", leaf.checksum),
            data: hex(leaf.data)?,
            fields: (!fields.is_empty()).then_some(FieldsLine { fields, data: leaf.data }),
        })
    }
}

/// Data as hex digits.
pub(crate) fn hex(data: &[u8]) -> anyhow::Result<String> {
    let mut digits = Vec::with_capacity(2 * data.len());
    write_hex(&mut digits, data)?;
    Ok(String::from_utf8(digits)?)
}

/// The fields that Data holds, in the order of the schema.
struct FieldsLine<'a> {
    fields: &'a [Field],
    data: &'a [u8],
}

impl Serialize for FieldsLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.fields {
            match field.decode(self.data) {
                None => {}
                Some(Value::Bool(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Unsigned(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Signed(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Float32(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Float(value)) => map.serialize_entry(&field.name, &value)?,
                Some(Value::Text(value)) => map.serialize_entry(&field.name, &value)?,
                Some(bytes @ Value::Bytes(_)) => {
                    map.serialize_entry(&field.name, &bytes.to_string())?;
                }
            }
        }
        map.end()
    }
}

/// A leaf that is damaged, as a line of JSON.
#[derive(Serialize)]
pub(crate) struct DamageLine {
    data_loc_id: u32,
    path: String,
    damage: String,
}

impl DamageLine {
    /// A leaf of the file, and what is wrong with it.
    pub(crate) fn new(file: &TreeFile, leaf: DataLocId, damage: LeafDamage) -> DamageLine {
        DamageLine {
            data_loc_id: leaf.0,
            path: file.layout().path_of(leaf).unwrap_or_default(),
            damage: damage.to_string(),
        }
    }
}
