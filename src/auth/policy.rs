//! Who may do what: one table of roles and actions. What is not in it is denied.

use super::{Principal, Role};
use crate::model::tenant::TenantId;

/// Something that a caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send entries.
    WriteEntries,
    /// List, get and count entries.
    ReadEntries,
    /// Take all entries along.
    Export,
    /// Follow the live feed.
    Stream,
    /// See a tenant and its settings.
    ReadTenant,
    /// Change a tenant's name and settings.
    UpdateTenant,
    /// See which tenants there are, as far as they are accessible.
    ListTenants,
    /// Make a tenant.
    CreateTenant,
    /// See a tenant's counters.
    ReadUsage,
    /// See what could not be stored.
    ReadDeadLetters,
    /// Erase entries.
    Erase,
    /// Read the log of who read and changed what.
    ReadAccessLog,
    /// See, make and revoke API keys.
    ManageKeys,
    /// See, make and remove people with a password.
    ManageUsers,
    /// Replay and delete what could not be stored.
    ChangeDeadLetters,
    /// Delete a tenant for ever.
    DeleteTenant,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 16] = [
        Self::WriteEntries,
        Self::ReadEntries,
        Self::Export,
        Self::Stream,
        Self::ReadTenant,
        Self::UpdateTenant,
        Self::ListTenants,
        Self::CreateTenant,
        Self::ReadUsage,
        Self::ReadDeadLetters,
        Self::Erase,
        Self::ReadAccessLog,
        Self::ManageKeys,
        Self::ManageUsers,
        Self::ChangeDeadLetters,
        Self::DeleteTenant,
    ];
}

/// The table. A platform admin manages tenants and reads no entries.
fn grants(role: Role) -> &'static [Action] {
    use Action::*;
    match role {
        Role::Writer => &[WriteEntries],
        Role::Viewer => &[ReadEntries, Stream],
        Role::Auditor => &[ReadEntries, Export, Stream, ReadAccessLog],
        Role::Admin => &[
            WriteEntries,
            ReadEntries,
            Export,
            Stream,
            ReadTenant,
            UpdateTenant,
            ListTenants,
            ReadUsage,
            ReadDeadLetters,
            Erase,
            ReadAccessLog,
            ManageKeys,
            ManageUsers,
            ChangeDeadLetters,
        ],
        Role::PlatformAdmin => &[ReadTenant, UpdateTenant, ListTenants, CreateTenant, DeleteTenant],
    }
}

/// Whether any role of the caller grants the action, wherever it applies.
pub fn allowed(principal: &Principal, action: Action) -> bool {
    principal.roles.iter().any(|role| grants(*role).contains(&action))
}

/// Whether the caller may do this to this tenant: the role that grants it must be one that reaches the tenant. A platform
/// admin's role reaches every tenant, all others only the tenant of the credential.
pub fn allowed_on(principal: &Principal, action: Action, tenant: &TenantId) -> bool {
    let own = principal.tenant.as_ref() == Some(tenant);
    principal
        .roles
        .iter()
        .any(|role| (own || *role == Role::PlatformAdmin) && grants(*role).contains(&action))
}

/// Whether the credential covers the tenant at all, be it for little.
pub fn covers(principal: &Principal, tenant: &TenantId) -> bool {
    principal.tenant.as_ref() == Some(tenant) || principal.roles.contains(&Role::PlatformAdmin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(tenant: Option<&str>, roles: &[Role]) -> Principal {
        Principal {
            subject: "s".into(),
            tenant: tenant.map(|t| TenantId::parse(t).expect("a tenant")),
            roles: roles.to_vec(),
            expires_at: None,
            origin: crate::auth::Origin::Local,
        }
    }

    /// The contract's table, written down a second time and independently: one letter per action of [`Action::ALL`].
    #[test]
    fn every_cell_of_the_table_is_the_contracts() {
        let table = [
            //                     write read export stream tenant update list create usage dead erase access keys users replay delete
            (Role::Writer, "x..............."),
            (Role::Viewer, ".x.x............"),
            (Role::Auditor, ".xxx.......x...."),
            (Role::Admin, "xxxxxxx.xxxxxxx."),
            (Role::PlatformAdmin, "....xxxx.......x"),
        ];
        for (role, row) in table {
            for (action, cell) in Action::ALL.into_iter().zip(row.chars()) {
                assert_eq!(allowed(&principal(Some("acme"), &[role]), action), cell == 'x', "{role:?} {action:?}");
            }
        }
        assert!(Action::ALL.iter().all(|a| !allowed(&principal(Some("acme"), &[]), *a)), "no role, no right");
    }

    #[test]
    fn a_role_reaches_only_its_own_tenant() {
        let (acme, globex) = (TenantId::parse("acme").expect("good"), TenantId::parse("globex").expect("good"));
        for role in [Role::Writer, Role::Viewer, Role::Auditor, Role::Admin] {
            for action in Action::ALL {
                assert!(!allowed_on(&principal(Some("acme"), &[role]), action, &globex), "{role:?} {action:?}");
            }
            assert!(covers(&principal(Some("acme"), &[role]), &acme) && !covers(&principal(Some("acme"), &[role]), &globex));
        }
        let both = principal(Some("acme"), &[Role::Viewer, Role::PlatformAdmin]);
        assert!(allowed_on(&both, Action::ReadEntries, &acme));
        assert!(
            !allowed_on(&both, Action::ReadEntries, &globex),
            "managing tenants does not carry reading over to them"
        );
        assert!(allowed_on(&both, Action::UpdateTenant, &globex));
        assert!(!allowed_on(&principal(None, &[Role::PlatformAdmin]), Action::ReadEntries, &acme));
    }
}
