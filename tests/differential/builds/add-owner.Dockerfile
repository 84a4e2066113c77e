FROM base
ADD --chown=web:ops d /d
ADD --chown=12:34 a /a
