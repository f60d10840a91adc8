# What a person's shell needs: where the configuration is. AVAMGR_CONFDIR is understood as the old suite left it.
export DRE_CONFDIR="${DRE_CONFDIR:-${AVAMGR_CONFDIR:-/etc/dre}}"
