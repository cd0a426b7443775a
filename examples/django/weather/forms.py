"""The site's form."""

from django import forms


class Convert(forms.Form):
    """A temperature to convert."""

    celsius = forms.DecimalField(label="Degrees Celsius", min_value=-274, max_value=1000)
