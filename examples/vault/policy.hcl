# What the role of maascert may do in Vault: keep private keys below one path of a KV store of version 2, and nothing else.
#   vault policy write maascert policy.hcl
# secret is the mount and maascert the path, as in store.seal.vault.

# Keys are written once (check-and-set) and read.
path "secret/data/maascert/*" {
  capabilities = ["create", "update", "read"]
}

# They are listed, and removed with all that is known of them.
path "secret/metadata/maascert/*" {
  capabilities = ["list", "read", "delete"]
}

# What Vault's own policy "default" allows too, which every role has unless it was taken away: a token is asked what it may do, and where the
# mount is; it is renewed, and given back.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
path "sys/internal/ui/mounts/secret" {
  capabilities = ["read"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
