//! Whether this machine runs on its battery, as Linux tells: a directory of files for each power supply.
//! (`Documentation/ABI/testing/sysfs-class-power` of the kernel.)

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where Linux lists the supplies.
const SUPPLIES: &str = "/sys/class/power_supply";

/// The power supplies of this machine.
pub struct Power {
    supplies: PathBuf,
}

impl Default for Power {
    fn default() -> Self {
        Self::at(SUPPLIES.into())
    }
}

impl Power {
    /// Those that are listed in `supplies`.
    pub fn at(supplies: PathBuf) -> Self {
        Self { supplies }
    }

    /// Whether the machine runs on its battery; None if it has none, or the system does not tell.
    pub fn is_on_battery(&self) -> Option<bool> {
        let (mut has_battery, mut is_discharging, mut is_unplugged, mut is_plugged) = (false, false, false, false);
        for supply in fs::read_dir(&self.supplies).ok()?.flatten() {
            let said = |name: &str| read(&supply.path(), name);
            // A mouse has a battery, too, which drives nothing else.
            if said("scope").as_deref() == Some("Device") {
                continue;
            }
            match said("type").as_deref() {
                Some("Battery" | "UPS") => {
                    has_battery = true;
                    is_discharging |= said("status").as_deref() == Some("Discharging");
                }
                Some(_) => match said("online").as_deref() {
                    Some("0") => is_unplugged = true,
                    Some(_) => is_plugged = true,
                    None => {}
                },
                None => {}
            }
        }
        has_battery.then_some(!is_plugged && (is_discharging || is_unplugged))
    }
}

fn read(supply: &Path, name: &str) -> Option<String> {
    fs::read_to_string(supply.join(name)).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Supplies, each a list of files and what is in them.
    fn power(supplies: &[&[(&str, &str)]]) -> Option<bool> {
        let directory = tempfile::tempdir().unwrap();
        for (number, files) in supplies.iter().enumerate() {
            let supply = directory.path().join(number.to_string());
            fs::create_dir(&supply).unwrap();
            files.iter().for_each(|(name, text)| fs::write(supply.join(name), format!("{text}\n")).unwrap());
        }
        Power::at(directory.path().to_owned()).is_on_battery()
    }

    const FULL: &[(&str, &str)] = &[("type", "Battery"), ("status", "Full")];
    const DISCHARGING: &[(&str, &str)] = &[("type", "Battery"), ("status", "Discharging")];
    const PLUGGED: &[(&str, &str)] = &[("type", "Mains"), ("online", "1")];
    const UNPLUGGED: &[(&str, &str)] = &[("type", "Mains"), ("online", "0")];
    const USB_UNPLUGGED: &[(&str, &str)] = &[("type", "USB"), ("online", "0")];
    const USB_FIXED: &[(&str, &str)] = &[("type", "USB"), ("online", "2")];
    const MOUSE: &[(&str, &str)] = &[("type", "Battery"), ("scope", "Device"), ("status", "Discharging")];

    #[test]
    fn a_machine_is_on_its_battery_if_it_has_one_and_nothing_feeds_it() {
        assert_eq!(power(&[FULL, UNPLUGGED]), Some(true));
        assert_eq!(power(&[DISCHARGING]), Some(true));
        assert_eq!(power(&[DISCHARGING, USB_UNPLUGGED, UNPLUGGED]), Some(true));
        assert_eq!(power(&[FULL, UNPLUGGED, USB_FIXED]), Some(false));
        // One battery of two is being emptied first, or the charger is weak.
        assert_eq!(power(&[DISCHARGING, FULL, PLUGGED]), Some(false));
        assert_eq!(power(&[FULL]), Some(false));
    }

    #[test]
    fn a_machine_without_a_battery_of_its_own_never_is() {
        assert_eq!(power(&[]), None);
        assert_eq!(power(&[USB_UNPLUGGED, PLUGGED]), None);
        assert_eq!(power(&[MOUSE, UNPLUGGED]), None);
        assert_eq!(power(&[&[], &[("type", "")]]), None);
        assert_eq!(Power::at("/nowhere".into()).is_on_battery(), None);
    }
}
