# What a person's shell needs: where the configuration is, as the daemons see it. AVAMGR_CONFDIR is what the old suite left.
for dre_file in /etc/sysconfig/dre /etc/default/dre; do
    if [ -r "$dre_file" ]; then
        . "$dre_file"
    fi
done
unset dre_file
if [ -n "${DRE_CONFDIR:-}" ]; then
    export DRE_CONFDIR
elif [ -n "${AVAMGR_CONFDIR:-}" ]; then
    export AVAMGR_CONFDIR
else
    export DRE_CONFDIR=/etc/dre
fi
